/** The mTLS door of a service that speaks HTTP/2, dialled directly: what is negotiated, who may speak for whom, and when a caller goes. */
import { connect as connectHttp2, type ClientHttp2Session, type IncomingHttpHeaders } from 'node:http2'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import t from 'tap'
import { serviceId } from '../../../src/mesh/spiffe.ts'
import { ownHttp2 } from '../../../src/proxy/http2/own-alpn.ts'
import type { Minted } from '../../support/mint.ts'
import { apiId, source, until, webId, westDomain, westGatewayId } from '../../support/proxy-scene.ts'
import { ask, startApp, startHttp2Scene } from './scene.ts'

t.test('the door', async t => {
  const seen: IncomingHttpHeaders[] = []
  const app = await startApp((stream, headers) => {
    seen.push(headers)
    stream.resume()
    if (headers[':path'] === '/held') {
      stream.respond({ ':status': 200 })
      stream.write('held')
      return
    }
    stream.respond({ ':status': 200 })
    stream.end('ok')
  })
  const scene = await startHttp2Scene(app.port)
  const { mint, eastRoot, westRoot } = scene
  const web = await mint.leaf(eastRoot, { san: `URI:${webId}` })
  const gateway = await mint.leaf(westRoot, { san: `URI:${westGatewayId}` })
  const local = await mint.leaf(westRoot, { san: `URI:${serviceId(westDomain, 'west', 'local')}` })
  t.teardown(async () => {
    await scene.close()
    app.close()
  })
  const dial = (leaf: Minted, ALPNProtocols: string[] | undefined, maxVersion: 'TLSv1.2' | 'TLSv1.3' = 'TLSv1.3') =>
    new Promise<TLSSocket>((resolve, reject) => {
      const options = { ca: [westRoot.certPem], cert: leaf.certPem, key: leaf.keyPem, checkServerIdentity: () => undefined, maxVersion }
      const socket = connectTls({
        host: '127.0.0.1',
        port: scene.api.port('public')!,
        ...options,
        ...(ALPNProtocols ? { ALPNProtocols } : {}),
      })
      socket.once('secureConnect', () => resolve(socket))
      socket.once('error', reject)
    })
  const open = async (leaf: Minted, alpn: string[] | undefined, version?: 'TLSv1.2'): Promise<ClientHttp2Session> => {
    const socket = await dial(leaf, alpn, version)
    socket.on('error', () => {})
    if (socket.destroyed) throw new Error('ended right after the handshake')
    const session = connectHttp2('http://api', { createConnection: () => socket })
    session.on('error', () => {})
    return session
  }
  const once = async (session: ClientHttp2Session, headers: Record<string, string> = {}) => {
    const answer = await ask(session, { ':path': '/', ...headers })
    session.destroy()
    return answer
  }

  await t.test('h2 is chosen where it is offered; without ALPN the preface decides; TLS 1.2 will do', async t => {
    for (const [alpn, chosen] of [
      [['h2', 'http/1.1'], 'h2'],
      [['http/1.1', 'h2'], 'h2'],
      [['h2'], 'h2'],
      [['h2', ownHttp2], ownHttp2],
      [undefined, false],
      [['something-else'], 'something-else'],
    ] as const) {
      const socket = await dial(web, alpn && [...alpn])
      t.equal(socket.alpnProtocol, chosen)
      socket.destroy()
      t.equal((await once(await open(web, alpn && [...alpn]))).status, 200, String(alpn))
    }
    t.equal((await once(await open(web, ['h2'], 'TLSv1.2'))).status, 200)
  })

  await t.test('HTTP/1.1 is agreed on where nothing else is offered, and told that it will not do', async t => {
    const socket = await dial(web, ['http/1.1'])
    t.equal(socket.alpnProtocol, 'http/1.1')
    socket.write('GET / HTTP/1.1\r\nhost: api\r\n\r\n')
    let heard = ''
    for await (const chunk of socket) heard += String(chunk)
    t.match(heard, /^HTTP\/1\.1 505 /)
  })

  await t.test('our own gateway may say for whom it calls, and the app sees both', async t => {
    const said = `By=${westGatewayId};Hash=00;Subject="";URI=${webId}`
    t.equal((await once(await open(gateway, ['h2']), { 'x-forwarded-client-cert': said })).status, 200)
    const xfcc = String(seen.at(-1)!['x-forwarded-client-cert'])
    t.ok(xfcc.startsWith(`${said},By=${apiId};`), xfcc)
    t.ok(xfcc.endsWith(`URI=${westGatewayId}`))
    t.equal((await once(await open(gateway, ['h2']))).status, 403, 'it has no rights of its own')
  })

  await t.test('nobody else may', async t => {
    const said = `By=${westGatewayId};Hash=00;Subject="";URI=${webId}`
    const before = seen.length
    t.equal((await once(await open(local, ['h2']), { 'x-forwarded-client-cert': said })).status, 403)
    t.equal(seen.length, before)
    scene.tell([source('web', 'allow', 'partner-east'), source('local', 'allow')])
    await until(async () => (await once(await open(local, ['h2']))).status === 200)
    await once(await open(local, ['h2']), { 'x-forwarded-client-cert': said, x_forwarded_client_cert: said })
    t.notMatch(JSON.stringify(seen.at(-1)), webId)
  })

  await t.test('that the app could not be reached is said to one of us, and to nobody else', async t => {
    scene.tellSelf({ app: { address: '127.0.0.1', port: 1 } })
    await until(async () => (await once(await open(web, ['h2']))).status === 503)
    for (const alpn of ['h2', ownHttp2]) {
      const { status, headers } = await once(await open(web, [alpn]))
      t.same([status, headers['x-isthmus-app-unreached']], [503, alpn === 'h2' ? undefined : '1'])
    }
    scene.tellSelf({})
    await until(async () => (await once(await open(web, ['h2']))).status === 200)
  })

  await t.test('a peer that is no longer trusted, and a protocol that is another, end what is open', async t => {
    const held = async () => {
      const session = await open(web, ['h2'])
      const stream = session.request({ ':path': '/held' })
      stream.on('error', () => {})
      stream.resume()
      // It may be ended before its first byte has come.
      return new Promise<void>(resolve => session.once('close', () => resolve()))
    }
    const first = held()
    await until(() => seen.at(-1)![':path'] === '/held')
    scene.tellSelf({ inboundPeers: [] })
    await first
    scene.tellSelf({})
    const served = async () => (await once(await open(web, ['h2']))).status === 200
    await until(async () => served().catch(() => false))
    const second = held()
    await until(() => seen.at(-1)![':path'] === '/held')
    scene.tellSelf({ protocol: 'tcp' })
    await second
    t.pass('both ended')
  })
})
