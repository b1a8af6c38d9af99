/** A sidecar as a client: which servers it believes, what it tells them, and what becomes of its streams when leaf or plan change. */
import { type AddressInfo, type Socket } from 'node:net'
import { createServer, type TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import { names } from '../../src/mesh/snapshot.ts'
import { startSidecar } from '../../src/proxy/sidecar.ts'
import { AgentStandIn } from '../support/agent-stand-in.ts'
import { Mint, type Minted } from '../support/mint.ts'
import {
  apiId,
  apiSni,
  call,
  converse,
  dbId,
  eastDomain,
  endpointAt,
  sidecarSelf,
  until,
  upstreamOf,
  webId,
  westDomain,
  westGatewayId,
} from '../support/proxy-scene.ts'

interface Met {
  servername: string | false | undefined
  alpn: string | false | null
  protocol: string | null
  client: string | undefined
  serial: string
  said: string
  socket: TLSSocket
}

async function start(t: Test, protocol = 'http') {
  const mint = new Mint()
  const [eastRoot, westRoot] = await Promise.all([mint.root(eastDomain), mint.root(westDomain)])
  const agent = new AgentStandIn(mint, eastRoot)
  await agent.start()
  const proxyId = 'web-sidecar-proxy'
  agent.tell(proxyId, [
    ['self', proxyId, sidecarSelf('east', 'web', 'tcp', 1)],
    ['roots', names.localRoots, { trustDomain: eastDomain, peer: '', exportedPartition: '', pems: [eastRoot.certPem] }],
    ['roots', 'west', { trustDomain: westDomain, peer: 'west', exportedPartition: '', pems: [westRoot.certPem] }],
    ['intentions', 'web', { sources: [] }],
    ['upstream', 'api?peer=west', upstreamOf('api', protocol, apiSni, apiId)],
  ])
  const web = await startSidecar({ proxyId, agent: { url: agent.url }, admin: { host: '127.0.0.1', port: 0 }, logger: silentLogger() })
  t.teardown(async () => {
    await web.close()
    await agent.stop()
    mint.remove()
  })
  await web.ready()
  const port = () => web.port('api?peer=west')!
  /** Starts a server with this leaf and makes it the upstream's only endpoint. */
  const serve = async (leaf: Minted, options: { maxVersion?: 'TLSv1.2'; ca?: string } = {}) => {
    const met: Met[] = []
    const sockets = new Set<Socket>()
    const server = createServer({
      cert: leaf.certPem,
      key: leaf.keyPem,
      requestCert: true,
      rejectUnauthorized: false,
      ALPNProtocols: ['http/1.1', 'h2'],
      ...options,
    })
    server.on('connection', socket => sockets.add(socket))
    server.on('secureConnection', socket => {
      const client = socket.getPeerCertificate()
      const one: Met = {
        servername: socket.servername as string,
        alpn: socket.alpnProtocol,
        protocol: socket.getProtocol(),
        client: client.subjectaltname,
        serial: client.serialNumber,
        said: '',
        socket,
      }
      met.push(one)
      socket.on('error', () => {})
      socket.on('data', (chunk: Buffer) => {
        one.said += chunk.toString()
        if (one.said.endsWith('\r\n\r\n')) socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok')
      })
    })
    server.on('tlsClientError', () => {})
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    t.teardown(() => {
      server.close()
      for (const socket of sockets) socket.destroy()
    })
    const listening = (server.address() as AddressInfo).port
    agent.tell(proxyId, [['endpoints', 'api-endpoints', { endpoints: [endpointAt(listening)] }]])
    await until(async () => (await call(web.admin!.port, '/plan')).body.includes(`"e${listening}"`))
    return { met, server }
  }
  return { mint, eastRoot, westRoot, agent, proxyId, web, port, serve }
}

const unreachable = {
  status: 503,
  body: 'upstream connect error or disconnect/reset before headers. reset reason: remote connection failure',
}
const brief = ({ status, body }: { status: number; body: string }) => ({ status, body })

t.test(
  'the service itself and its gateway are believed, over TLS 1.2 as well; they are told the SNI, the leaf and the protocol',
  async t => {
    const { mint, westRoot, port, serve } = await start(t)
    for (const [uri, options] of [
      [apiId, {}],
      [westGatewayId, { maxVersion: 'TLSv1.2' }],
    ] as const) {
      const { met } = await serve(await mint.leaf(westRoot, { san: `URI:${uri}` }), options)
      const answer = await call(port(), '/x', {
        headers: { 'x-forwarded-client-cert': 'By=x;URI=spiffe://forged', x_forwarded_client_cert: 'By=y', other: 'kept' },
      })
      t.strictSame(brief(answer), { status: 200, body: 'ok' })
      const { servername, alpn, protocol, client, said } = met[0]!
      const expected = {
        servername: apiSni,
        alpn: 'http/1.1',
        protocol: 'maxVersion' in options ? 'TLSv1.2' : 'TLSv1.3',
        client: `URI:${webId}`,
      }
      t.strictSame({ servername, alpn, protocol, client }, expected)
      t.match(said, /other: kept/)
      t.notMatch(said, /forged|By=/)
    }
  },
)

t.test('another service of the same cluster is not believed, and hears not one byte of the request', async t => {
  const { mint, westRoot, port, serve } = await start(t)
  const { met } = await serve(await mint.leaf(westRoot, { san: `URI:${dbId}` }))
  t.strictSame(brief(await call(port(), '/secret')), unreachable)
  t.strictSame(met.map(one => one.said).join(''), '')
})

t.test('a server whose certificate is of our own CA, of a stranger, or signed by a leaf is not believed', async t => {
  const { mint, eastRoot, westRoot, port, serve } = await start(t)
  const leaf = await mint.leaf(westRoot, { san: `URI:${apiId}`, bare: true })
  const forged = await mint.leaf(leaf, { san: `URI:${apiId}` })
  const leaves = [
    await mint.leaf(eastRoot, { san: `URI:${apiId}` }),
    await mint.leaf(await mint.root(westDomain), { san: `URI:${apiId}` }),
    mint.chained(forged, leaf),
  ]
  for (const each of leaves) {
    const { met } = await serve(each)
    t.strictSame(brief(await call(port(), '/secret')), unreachable)
    t.strictSame(met.map(one => one.said).join(''), '')
  }
})

t.test('a bytes upstream whose server is not believed resets the app', async t => {
  const { mint, westRoot, port, serve } = await start(t, 'tcp')
  const { met } = await serve(await mint.leaf(westRoot, { san: `URI:${dbId}` }))
  t.strictSame(await converse(port(), 'secret'), { heard: '', error: 'ECONNRESET' })
  t.strictSame(met.map(one => one.said).join(''), '')
})

t.test('a renewed leaf opens a new session and the old one is not used again', async t => {
  const { mint, eastRoot, westRoot, agent, proxyId, port, serve } = await start(t)
  const { met } = await serve(await mint.leaf(westRoot, { san: `URI:${apiId}` }))
  for (let i = 0; i < 2; i += 1) await call(port(), '/x')
  t.equal(met.length, 1)
  const next = await mint.root(eastDomain)
  agent.root = next
  agent.tell(proxyId, [['roots', names.localRoots, { trustDomain: eastDomain, peer: '', exportedPartition: '', pems: [next.certPem] }]])
  await until(() => met[0]!.socket.destroyed)
  await call(port(), '/x')
  t.equal(met.length, 2)
  t.not(met[1]!.serial, met[0]!.serial)
  t.not(eastRoot.certPem, next.certPem)
})

t.test('a session whose server is no longer accepted is closed at once', async t => {
  const { mint, westRoot, agent, proxyId, port, serve } = await start(t)
  const { met } = await serve(await mint.leaf(westRoot, { san: `URI:${apiId}` }))
  await call(port(), '/x')
  agent.tell(proxyId, [['upstream', 'api?peer=west', { ...upstreamOf('api', 'http', apiSni, apiId), spiffeIds: [westGatewayId] }]])
  await until(() => met[0]!.socket.destroyed)
  t.strictSame(brief(await call(port(), '/x')), unreachable)
})

t.test('a peer whose roots are gone loses its sessions at once', async t => {
  const { mint, westRoot, agent, proxyId, port, serve } = await start(t)
  const { met } = await serve(await mint.leaf(westRoot, { san: `URI:${apiId}` }))
  await call(port(), '/x')
  agent.tell(proxyId, [['roots', 'west', null]])
  await until(() => met[0]!.socket.destroyed)
  t.equal((await call(port(), '/x')).status, 503)
})
