// A gateway at which exported http ends: the app still sees who called, and only that; whoever proves nothing gets nothing; and a service
// may change between passing through and ending here under load.
import { once } from 'node:events'
import { Agent } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { connect } from 'node:net'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import type { Minted } from '../support/mint.ts'
import { silentLogger } from '../../src/lib/log.ts'
import { names } from '../../src/mesh/snapshot.ts'
import { meshGatewayId, serviceId } from '../../src/mesh/spiffe.ts'
import { ownHttp2 } from '../../src/proxy/http2/own-alpn.ts'
import { startGateway, type RunningGateway } from '../../src/proxy/mesh-gateway.ts'
import {
  apiId,
  apiSni,
  call,
  eastDomain,
  endAtGateway,
  endpointAt,
  gatewaySelf,
  Load,
  passing,
  source,
  startScene,
  until,
  webId,
  westDomain,
  westGatewayId,
  type Scene,
} from '../support/proxy-scene.ts'
import { ask, openSession, startApp, startHttp2Scene } from './http2/scene.ts'

const leafOf = async (gateway: RunningGateway) => {
  const certs = JSON.parse((await call(gateway.admin!.port, '/certs')).body) as { leaf?: { uri: string } }
  return certs.leaf?.uri
}

async function startEnding(t: Test): Promise<Scene> {
  const scene = await startScene()
  t.teardown(() => scene.close())
  t.equal(await leafOf(scene.gateway), undefined, 'a gateway that passes everything on holds no key')
  endAtGateway(scene)
  await until(async () => (await leafOf(scene.gateway)) === westGatewayId)
  return scene
}

/** `By` and `URI` of each element that the app saw last. */
function callersSeen(scene: Scene): [by: string, uri: string][] {
  const header = scene.apiApp.seen.at(-1)!.headers['x-forwarded-client-cert'] as string
  return header.split(',').map(element => [/^By=([^;]+);/.exec(element)![1]!, /;URI=([^;]+)$/.exec(element)![1]!])
}

const throughGateway: [string, string][] = [
  [westGatewayId, webId],
  [apiId, westGatewayId],
]

t.test('requests end at the gateway and go on to the sidecar, with the caller in the first element', async t => {
  const scene = await startEnding(t)
  const port = scene.web.port('api?peer=west')!
  // What is open passes through until it ends; a new session is what ends here.
  const fresh = await startSessionless(scene)
  t.match(await fresh('GET /x HTTP/1.1\r\nhost: api\r\n\r\n'), /^HTTP\/1\.1 200 OK[^]*api GET \/x\r\n/)
  t.same(callersSeen(scene), throughGateway)
  await until(async () => {
    await call(port, '/', { headers: { 'x-forwarded-client-cert': `By=x;URI=${serviceId(eastDomain, 'east', 'admin')}` } })
    return callersSeen(scene).length === 2
  })
  t.same(callersSeen(scene), throughGateway, 'what the app of the caller says of itself is nowhere')
  const posted = await call(port, '/post', { method: 'POST', body: 'text' })
  t.match([posted.status, scene.apiApp.seen.at(-1)], [200, { method: 'POST', url: '/post', body: 'text' }])

  await t.test('the sidecar judges the caller, not the gateway', async t => {
    scene.west.tell('api-sidecar-proxy', [['intentions', 'api', { sources: [source('web', 'deny', 'partner-east')] }]])
    await until(async () => (await call(port, '/')).status === 403)
    t.equal((await call(port, '/')).body, 'RBAC: access denied')
    const others = [source('*', 'allow'), source('admin', 'allow', 'partner-east')]
    scene.west.tell('api-sidecar-proxy', [['intentions', 'api', { sources: others }]])
    await new Promise(resolve => setTimeout(resolve, 100))
    t.equal((await call(port, '/')).status, 403)
    scene.west.tell('api-sidecar-proxy', [['intentions', 'api', { sources: [source('web', 'allow', 'partner-east')] }]])
    await until(async () => (await call(port, '/')).status === 200)
  })

  await t.test('an upgrade is a tunnel through both', async t => {
    const open = await startSessionless(scene)
    const said = await open('GET /up HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nping', 'ping')
    t.match(said, /^HTTP\/1\.1 101 [^]*ping$/)
  })
})

/** One raw client of the gateway, as Envoy is one: its own connection, TLS 1.2, no sessions. Resolves when `end` was heard. */
async function startSessionless(scene: Scene, leaf?: Minted): Promise<(text: string, end?: string) => Promise<string>> {
  const { keyPem, certPem } = leaf ?? (await scene.mint.leaf(scene.eastRoot, { san: `URI:${webId}` }))
  const socket = connectTls({
    port: scene.gateway.port('wan')!,
    host: '127.0.0.1',
    servername: apiSni,
    key: keyPem,
    cert: certPem,
    ca: scene.westRoot.certPem,
    maxVersion: 'TLSv1.2',
    ALPNProtocols: ['http/1.1'],
    checkServerIdentity: () => undefined,
  })
  return (text, end = 'api GET /') => converse(socket, text, end)
}

function converse(socket: TLSSocket, text: string, end: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let heard = ''
    socket.on('data', (chunk: Buffer) => {
      heard += chunk.toString()
      if (!heard.includes(end)) return
      socket.destroy()
      resolve(heard)
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(heard))
    socket.write(text)
  })
}

t.test('whoever proves nothing, or not what this name is for, reaches nobody', async t => {
  const scene = await startEnding(t)
  const { mint, eastRoot, westRoot } = scene
  const stranger = await mint.root(eastDomain)
  const third = await mint.root('cccccccc-0000-0000-0000-000000000003.consul')
  const thirdId = serviceId('cccccccc-0000-0000-0000-000000000003.consul', 'far', 'web')
  scene.west.tell('gateway', [
    [
      'roots',
      'far',
      { trustDomain: 'cccccccc-0000-0000-0000-000000000003.consul', peer: 'far', exportedPartition: '', pems: [third.certPem] },
    ],
  ])
  const leaves = {
    'a stranger that claims the trust domain of the peer': await mint.leaf(stranger, { san: `URI:${webId}` }),
    'another peer, known, to which it is not exported': await mint.leaf(third, { san: `URI:${thirdId}` }),
    'another peer that claims the trust domain of the peer': await mint.leaf(third, { san: `URI:${webId}` }),
    'a caller of the own cluster': await mint.leaf(westRoot, { san: `URI:${serviceId(westDomain, 'west', 'web')}` }),
    'the own gateway': await mint.leaf(westRoot, { san: `URI:${meshGatewayId(westDomain, 'west')}` }),
    'another name behind the own one': await mint.leaf(eastRoot, { san: `URI:spiffe://${eastDomain}/x;URI=${webId}` }),
    'two names': await mint.leaf(eastRoot, { san: `URI:${webId},URI:${serviceId(eastDomain, 'east', 'admin')}` }),
  }
  for (const [who, leaf] of Object.entries(leaves)) {
    const say = await startSessionless(scene, leaf)
    const heard = await say('GET / HTTP/1.1\r\nhost: api\r\n\r\n').catch(() => '')
    t.equal(heard, '', who)
  }
  t.equal(scene.apiApp.seen.length, 0)
})

/** A ClientHello of TLS 1.3 in a record, as plain as it can be. */
function clientHello(servername: string | undefined, keyShare: Buffer): Buffer {
  const sized = (bytes: 1 | 2 | 3, content: Buffer) => {
    const length = Buffer.alloc(bytes)
    length.writeUIntBE(content.length, 0, bytes)
    return Buffer.concat([length, content])
  }
  const hex = (text: string) => Buffer.from(text, 'hex')
  const extension = (type: string, content: Buffer) => Buffer.concat([hex(type), sized(2, content)])
  const extensions = [
    extension('000a', sized(2, hex('001d'))),
    extension('000d', sized(2, hex('04030804'))),
    extension('002b', sized(1, hex('0304'))),
    extension('0033', sized(2, keyShare)),
    extension('0010', sized(2, sized(1, Buffer.from('http/1.1')))),
  ]
  if (servername !== undefined) {
    extensions.unshift(extension('0000', sized(2, Buffer.concat([hex('00'), sized(2, Buffer.from(servername))]))))
  }
  const body = [hex('0303'), Buffer.alloc(32, 7), sized(1, Buffer.alloc(0)), sized(2, hex('1301')), sized(1, hex('00'))]
  const hello = Buffer.concat([...body, sized(2, Buffer.concat(extensions))])
  return Buffer.concat([hex('160301'), sized(2, Buffer.concat([hex('01'), sized(3, hello)]))])
}

t.test('a second hello that names nobody, or somebody else, is answered like the first', async t => {
  const scene = await startEnding(t)
  const share = Buffer.concat([Buffer.from('001d0020', 'hex'), Buffer.alloc(32, 9)])
  for (const second of [undefined, 'nobody.example', apiSni]) {
    const socket = connect(scene.gateway.port('wan')!, '127.0.0.1')
    socket.on('error', () => {})
    // Without a key share the server asks for another hello.
    socket.write(clientHello(apiSni, Buffer.alloc(0)))
    await once(socket, 'data')
    socket.write(clientHello(second, share))
    const answered = await Promise.race([once(socket, 'data').then(() => true), once(socket, 'close').then(() => false)])
    t.ok(answered, String(second))
    socket.destroy()
  }
  const say = await startSessionless(scene)
  t.match(await say('GET / HTTP/1.1\r\nhost: api\r\n\r\n'), /200 OK/)
})

t.test('a service changes between passing through and ending here, and back: no request fails', async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const port = scene.web.port('api?peer=west')!
  const load = new Load(() => port, 8)
  t.teardown(() => load.stop())
  const pause = () => new Promise(resolve => setTimeout(resolve, 300))
  await pause()
  endAtGateway(scene)
  await until(async () => (await leafOf(scene.gateway)) === westGatewayId)
  const one = await startSessionless(scene)
  t.match(await one('GET / HTTP/1.1\r\nhost: api\r\n\r\n'), /200 OK/)
  t.same(callersSeen(scene).length > 0, true)
  await pause()
  scene.west.tell('gateway', [['exported', apiSni, passing]])
  await pause()
  await load.stop()
  t.same(Object.keys(load.statuses), ['200'], JSON.stringify(load.statuses))
})

t.test('what is taken back ends at once', async t => {
  const scene = await startEnding(t)
  const say = await startSessionless(scene)
  const ended = say('GET / HTTP/1.1\r\nhost: api\r\n\r\n', 'never')
  await until(() => scene.apiApp.seen.length === 1)
  const beganMs = performance.now()
  scene.west.tell('gateway', [['exported', apiSni, null]])
  await ended
  t.ok(performance.now() - beganMs < 1000)
  const late = await startSessionless(scene)
  await t.rejects(late('GET / HTTP/1.1\r\nhost: api\r\n\r\n'), { code: 'ECONNRESET' }, 'as a name that does not exist')
})

t.test('a gateway that is asked to end says so to whoever can hear it', async t => {
  const scene = await startEnding(t)
  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  const say = await startSessionless(scene)
  void scene.gateway.drain(1000)
  t.match(await say('GET / HTTP/1.1\r\nhost: api\r\n\r\n'), /^HTTP\/1\.1 200 OK[^]*\r\nconnection: close\r\n/i)
})

t.test('http2 and grpc end here, too', async t => {
  const seen: unknown[] = []
  const app = await startApp((stream, headers) => {
    seen.push(headers['x-forwarded-client-cert'])
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
    stream.end('answer')
  })
  t.teardown(() => app.close())
  const scene = await startHttp2Scene(app.port)
  t.teardown(() => scene.close())
  scene.west.tell('gateway', [
    ['self', 'gateway', gatewaySelf()],
    ['roots', names.localRoots, { trustDomain: westDomain, peer: '', exportedPartition: '', pems: [scene.westRoot.certPem] }],
    ['endpoints', 'api', { endpoints: [endpointAt(scene.api.port('public')!)] }],
  ])
  endAtGateway(scene, 'grpc')
  const gateway = await startGateway({
    proxyId: 'gateway',
    agent: { url: scene.west.url },
    admin: { host: '127.0.0.1', port: 0 },
    logger: silentLogger(),
  })
  t.teardown(() => gateway.close())
  await gateway.ready()
  scene.tellEndpoints(gateway.port('wan')!)
  const session = openSession(scene.port)
  t.teardown(() => session.destroy())
  const forged = { 'x-forwarded-client-cert': `By=x;URI=${serviceId(eastDomain, 'east', 'admin')}` }
  const grpc = { ':method': 'POST', ':path': '/a.B/C', 'content-type': 'application/grpc', te: 'trailers', ...forged }
  await until(async () => {
    const answer = await ask(session, grpc, 'x')
    t.match([answer.status, answer.trailers['grpc-status']], [200, '0'])
    return String(seen.at(-1)).split(',').length === 2
  })
  t.match(
    String(seen.at(-1)).replaceAll(/Hash=[^,]*?;URI/g, '…;URI'),
    `By=${westGatewayId};…;URI=${webId},By=${apiId};…;URI=${westGatewayId}`,
  )
  scene.tell([source('web', 'deny', 'partner-east')])
  await until(async () => (await ask(session, grpc, 'x')).headers['grpc-status'] === '7')

  // That the sidecar reached no app passes the gateway, to one of us.
  scene.tell([source('web', 'allow', 'partner-east')])
  scene.tellSelf({ app: { address: '127.0.0.1', port: 1 } })
  await until(async () => (await ask(session, grpc, 'x')).headers['grpc-status'] === '14')
  const { keyPem, certPem } = await scene.mint.leaf(scene.eastRoot, { san: `URI:${webId}` })
  for (const alpn of ['h2', ownHttp2]) {
    const dialled = connectTls({
      port: gateway.port('wan')!,
      host: '127.0.0.1',
      servername: apiSni,
      key: keyPem,
      cert: certPem,
      ca: scene.westRoot.certPem,
      ALPNProtocols: [alpn],
      checkServerIdentity: () => undefined,
    })
    await once(dialled, 'secureConnect')
    const direct = connectHttp2('http://api', { createConnection: () => dialled })
    const { headers } = await ask(direct, grpc, 'x')
    t.same([headers['grpc-status'], headers['x-isthmus-app-unreached']], ['14', alpn === 'h2' ? undefined : '1'])
    direct.destroy()
  }
})
