/**
 * `isthmus why --live` in one cluster of real parts in this process: an agent with its API, sidecars, and servers that are not who they
 * should be. Each failure is real; what is explained is compared with what happens.
 */
import { createServer as createTlsServer } from 'node:tls'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { keys } from '../../src/agent/catalog/keys.ts'
import type { ProbeReport } from '../../src/cli/why-probe.ts'
import { silentLogger } from '../../src/lib/log.ts'
import { Peering } from '../../src/mesh/peering.ts'
import { NodeService } from '../../src/mesh/service.ts'
import { names } from '../../src/mesh/snapshot.ts'
import { externalSni } from '../../src/mesh/sni.ts'
import { meshGatewayId, serviceId } from '../../src/mesh/spiffe.ts'
import { startGateway } from '../../src/proxy/mesh-gateway.ts'
import { startSidecar } from '../../src/proxy/sidecar.ts'
import { agentWithHttp } from '../support/agent-parts.ts'
import { AgentStandIn } from '../support/agent-stand-in.ts'
import { freePorts } from '../support/free-ports.ts'
import { Mint, type LeafWish, type Minted } from '../support/mint.ts'
import { call, until, within } from '../support/processes.ts'
import { gatewaySelf, startHttpApp, westDomain } from '../support/proxy-scene.ts'
import { against } from './harness.ts'

/** Passing from the start: nobody waits for its own check to dial it. */
const up = { Checks: [{ Name: 'up', TTL: '1h', Status: 'passing' }] }
const admin = { host: '127.0.0.1', port: 0 }
const logger = silentLogger()

interface Explained {
  Verdict: string
  Code?: string
  Text: string
  Next?: string
  Steps: {
    Step: string
    State: string
    Code?: string
    Text: string
    Target?: string
    Details?: string[]
    From?: { Entry: string; Index: number }[]
  }[]
  Live?: ProbeReport
}

async function scene(t: Test) {
  const sidecarPorts = await freePorts(10)
  const agent = await agentWithHttp({ sidecarPorts: { min: sidecarPorts[0]!, max: sidecarPorts.at(-1)! } })
  const app = await startHttpApp()
  const mint = new Mint()
  t.teardown(async () => {
    app.close()
    await agent.close()
    mint.remove()
  })
  const put = async (path: string, body: object) => {
    const { status, text } = await call(agent.door.port, path, { method: 'PUT', body })
    t.equal(status, 200, text)
  }
  const ask = against(agent.url)
  const cli = (...args: string[]) => ask(args)
  const why = async (...args: string[]) => {
    const { stdout, stderr } = await cli('why', ...args, '--format', 'json')
    if (stderr !== '') throw new Error(stderr)
    return JSON.parse(stdout) as Explained
  }
  const sidecar = async (service: string) => {
    const running = await startSidecar({ proxyId: `${service}-sidecar-proxy`, agent: { url: agent.url }, admin, logger })
    t.teardown(() => running.close())
    await within(`the sidecar of ${service} is ready`, running.ready(), 30_000)
    return running
  }
  return { agent, app, mint, put, cli, why, sidecar }
}

const amiss = ({ Steps }: Explained) => Steps.filter(each => each.State !== 'ok').map(each => `${each.Step} ${each.State} ${each.Code}`)

t.test('inside one cluster', async t => {
  const { app, put, cli, why, sidecar } = await scene(t)
  const [apiPort, grpcPort, shopPort] = (await freePorts(3)) as [number, number, number]
  const register = (Name: string, Port: number, Upstreams: object[] = []) =>
    put('/v1/agent/service/register', { Name, Port, Connect: { SidecarService: { Proxy: { Upstreams } } } })
  const write = (Kind: string, Name: string, more: object) => put('/v1/config', { Kind, Name, ...more })
  await write('service-defaults', 'api', { Protocol: 'http' })
  await register('api', app.port)
  await register('web', 9, [
    { DestinationName: 'api', LocalBindPort: apiPort },
    { DestinationName: 'shop', LocalBindPort: shopPort },
  ])
  await Promise.all([sidecar('api'), sidecar('web')])
  await until('a call arrives', async () => (await call(apiPort, '/')).status === 200)

  const allowed = await why('web', '->', 'api', '--live')
  t.same([allowed.Verdict, amiss(allowed), allowed.Live!.agrees, allowed.Live!.status], ['allow', [], true, 200])
  t.same(
    allowed.Steps.map(each => each.Step),
    ['source', 'upstream', 'chain', 'endpoints', 'protocol', 'tls', 'trust', 'intentions'],
  )
  t.match(allowed.Text, 'no intention is about web calling api; the default allows it (default_intention_policy allow)')

  await write('service-intentions', 'api', {
    Sources: [
      { Name: 'web', Action: 'deny' },
      { Name: '*', Action: 'allow' },
    ],
  })
  await until('it is denied', async () => (await call(apiPort, '/')).status === 403)
  const denied = await why('web -> api', '--live')
  t.match(denied, { Verdict: 'deny', Code: 'denied', Text: 'web => api denies it', Live: { verdict: 'deny', status: 403, agrees: true } })
  t.match(denied.Live!.outcome, 'answered with 403; web => api', 'the sidecar itself names the same rule')
  const { stdout } = await cli('why', 'web', 'api')
  t.match(
    stdout,
    /\n {7}\* web => api \(precedence 9\) denies every call \[service-intentions\/api @\d+\]\n {7}- \* => api \(precedence 8\) another that is more particular counts/,
  )
  t.match(stdout, /\ndeny: web => api denies it\nnext: allow it in service-intentions\/api: \{/)
  await write('service-intentions', 'api', { Sources: [{ Name: '*', Action: 'allow' }] })
  await until('it is allowed', async () => (await call(apiPort, '/')).status === 200)

  t.match(await why('nobody', 'api'), { Verdict: 'unreachable', Code: 'unknown-source', Text: 'no service nobody is registered' })
  t.match(await why('web', 'api@mars'), { Code: 'upstream-missing', Steps: [{}, {}, { Step: 'peering', Code: 'unknown-peer' }] })
  t.match(await why('web', 'shop', '--live'), { Code: 'no-endpoint', Live: { verdict: 'unreachable' } })

  // What the app means by its bytes is not what the other side reads.
  const Config = { protocol: 'grpc' }
  await register('web', 9, [{ DestinationName: 'api', LocalBindPort: grpcPort, Config }])
  await until('the other port is there', () =>
    call(grpcPort, '/').then(
      () => true,
      error => !/REFUSED/.test(String(error)),
    ),
  )
  const mismatch = await why('web', 'api', '--live')
  t.match(mismatch, { Verdict: 'unreachable', Code: 'protocol-mismatch', Text: "the caller's side speaks grpc, api is served as http" })
  t.match(mismatch.Live, { verdict: 'unreachable', agrees: true })

  await register('web', 9, [{ DestinationName: 'api', LocalBindPort: apiPort }])
  await until('the port is there again', () =>
    call(apiPort, '/').then(
      ({ status }) => status === 200,
      () => false,
    ),
  )
  app.close()
  const gone = await why('web', 'api', '--live')
  t.match(gone, { Verdict: 'allow', Live: { verdict: 'unreachable', status: 503, code: 'app-unreachable', agrees: false } })
  t.match(gone.Live!.differs, /explained as allow .* yet it is unreachable; the sidecar answers, and the app behind it cannot be reached$/)

  for (const [args, error] of [
    [['web'], /Say who calls whom/],
    [['web', 'api', '--bogus'], /unknown option '--bogus'/],
    [['web', 'api', 'GET', 'x'], /no path/],
    [['web', 'api', 'GET', '/a\u0001b'], /not one that a request can have/],
    [['web', 'api', 'G(T', '/'], /no HTTP method/],
    [['web', 'api', ...Array.from({ length: 65 }, () => '--header=a:b')], /Too many headers/],
    [['web@a', 'api@b'], /does not pass through this cluster/],
    [['web', 'api@b', '--peer', 'c'], /Two peers are named/],
    [['web', 'api', '--header', 'x'], /no header/],
    [['web', '@'], /is no destination/],
  ] as const) {
    const { code, stderr } = await cli('why', ...args)
    t.equal(code, 1)
    t.match(stderr, error)
  }
})

t.test('routes, splits and failover are followed to each target', async t => {
  const { app, put, why, sidecar } = await scene(t)
  const [shopPort] = (await freePorts(1)) as [number]
  const write = (Kind: string, Name: string, more: object) => put('/v1/config', { Kind, Name, ...more })
  await write('proxy-defaults', 'global', { Config: { protocol: 'http' } })
  for (const Name of ['v1', 'v2', 'spare'])
    await put('/v1/agent/service/register', { Name, Port: app.port, Connect: { SidecarService: up } })
  await put('/v1/agent/service/register', {
    Name: 'web',
    Port: 9,
    Connect: { SidecarService: { Proxy: { Upstreams: [{ DestinationName: 'shop', LocalBindPort: shopPort }] } } },
  })
  await Promise.all(['v1', 'v2', 'spare', 'web'].map(sidecar))
  await write('service-splitter', 'shop', {
    Splits: [
      { Weight: 75, Service: 'v1' },
      { Weight: 25, Service: 'v2' },
    ],
  })
  await write('service-router', 'shop', {
    Routes: [
      { Match: { HTTP: { PathExact: '/old' } }, Destination: { Service: 'gone' } },
      { Match: { HTTP: { PathPrefix: '/s' } }, Destination: { Service: 'shop', NumRetries: 4_000_000_000, RetryOn: ['5xx'] } },
    ],
  })
  await write('service-resolver', 'gone', { Failover: { '*': { Service: 'spare' } } })
  await until('calls are split', async () => (await call(shopPort, '/s')).status === 200)
  const split = await why('web', 'shop', 'GET', '/s/x')
  t.same([split.Verdict, amiss(split)], ['allow', []])
  t.same(
    split.Steps.filter(each => each.Step === 'split').map(each => [each.Target, each.Text]),
    [
      ['v1', '75% of requests take service-splitter/shop[0]'],
      ['v2', '25% of requests take service-splitter/shop[1]'],
    ],
  )
  t.match(
    split.Steps.find(each => each.Step === 'route'),
    {
      Text: 'service-router/shop[1] takes it',
      From: [{ Entry: 'service-router/shop[1]' }],
      Details: ['tries again 10 times (4000000000 are asked for, which is too many), on 500-599 too'],
    },
  )
  await write('service-intentions', 'v2', { Sources: [{ Name: 'web', Action: 'deny' }] })
  t.match(await why('web', 'shop', 'GET', '/s'), { Verdict: 'depends', Text: /v1: allow, v2: deny/ })
  const failed = await why('web', 'shop', 'GET', '/old', '--live')
  t.match(failed, { Verdict: 'allow', Live: { status: 200, agrees: true } })
  t.same(amiss(failed), ['resolver warning failed-over'])
  t.match(failed.Steps.find(each => each.Step === 'resolver')?.Text, /has failed over to spare/)
})

t.test('a server that is not who it should be', async t => {
  const { agent, mint, put, why, sidecar } = await scene(t)
  const { trustDomain } = agent.parts.ca
  const foreign = await mint.root(trustDomain)
  const serve = async (service: string, wish: Partial<LeafWish>) => {
    const leaf = await mint.leaf(foreign, { san: `URI:${serviceId(trustDomain, 'dc1', service)}`, ...wish })
    const server = createTlsServer({ cert: leaf.certPem, key: leaf.keyPem }, socket => socket.on('error', () => {}))
    server.on('tlsClientError', () => {})
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    t.teardown(() => new Promise(resolve => server.close(resolve)))
    const { port } = server.address() as AddressInfo
    await put('/v1/agent/service/register', { Name: service, Port: 1, Connect: { SidecarService: { ...up, Port: port } } })
  }
  await serve('expired', { days: -1 })
  await serve('forged', {})
  const [one, two] = (await freePorts(2)) as [number, number]
  const Upstreams = [
    { DestinationName: 'expired', LocalBindPort: one },
    { DestinationName: 'forged', LocalBindPort: two },
  ]
  await put('/v1/config', { Kind: 'proxy-defaults', Name: 'global', Config: { protocol: 'http' } })
  await put('/v1/agent/service/register', { Name: 'web', Port: 9, Connect: { SidecarService: { Proxy: { Upstreams } } } })
  await sidecar('web')
  for (const [name, code, text] of [
    ['expired', 'certificate-expired', /whose certificate ended at/],
    ['forged', 'wrong-identity', /which no root of .* vouches for \(untrusted\)/],
  ] as const) {
    const found = await why('web', name, '--live')
    t.match(found.Live, { verdict: 'unreachable', status: 503, code, agrees: false }, name)
    t.match(found.Live!.endpoints[0]!.text, text)
    t.match(found.Live!.differs, /explained as allow/)
  }
})

t.test('a server name that a gateway does not serve, and one that no peer may claim', async t => {
  const { agent, mint, put, why, sidecar } = await scene(t)
  const westRoot = await mint.root(westDomain)
  const gateway = await gatewayServing(t, mint, westRoot, externalSni('other', 'us', westDomain))
  const write = async (key: string, value: object) => {
    const { revision } = await agent.store.txn({ ops: [{ op: 'put', key, value: Buffer.from(JSON.stringify(value)) }] })
    await agent.parts.tables.reached(revision)
  }
  await write(keys.peering('west'), Peering.parse({ id: 'w', name: 'west', state: 'ESTABLISHING' }))
  await write(keys.trustBundle('west'), { peer: 'west', trustDomain: westDomain, rootPems: [westRoot.certPem], exportedPartition: '' })
  const imported = async (service: string, sni: string) => {
    const peerMeta = { sni: [sni], spiffeId: [serviceId(westDomain, 'west', service), meshGatewayId(westDomain, 'west')], protocol: 'http' }
    const proxy = {
      id: `${service}-proxy`,
      service: `${service}-sidecar-proxy`,
      kind: 'connect-proxy',
      address: '127.0.0.1',
      port: gateway.port('wan')!,
    }
    const instance = NodeService.parse({
      ...proxy,
      peerName: 'west',
      connect: { peerMeta },
      proxy: { mode: '', meshGateway: {}, expose: {}, destinationServiceName: service },
    })
    const node = agent.parts.tables.nodes().value[0]!
    await agent.parts.catalog.replaceImported('west', `${service}-sidecar-proxy`, [{ node, service: instance, checks: [] }], 1)
  }
  await imported('api', externalSni('api', 'us', westDomain))
  await imported('evil', externalSni('api', 'us', agent.parts.ca.trustDomain))
  const [one, two] = (await freePorts(2)) as [number, number]
  const Upstreams = [
    { DestinationName: 'api', DestinationPeer: 'west', LocalBindPort: one },
    { DestinationName: 'evil', DestinationPeer: 'west', LocalBindPort: two },
  ]
  await put('/v1/agent/service/register', { Name: 'web', Port: 9, Connect: { SidecarService: { Proxy: { Upstreams } } } })
  await sidecar('web')
  const unserved = await why('web', 'api@west', '--live')
  t.match(unserved, { Verdict: 'unknown', Code: 'exporter-decides', Live: { verdict: 'unreachable', status: 503, code: 'wrong-sni' } })
  t.match(unserved.Live!.differs, /hangs up on the server name api\.default\.default\.us\.external\./)
  t.match(await why('web', 'evil', '--peer', 'west', '--live'), {
    Verdict: 'unreachable',
    Code: 'wrong-sni',
    Live: { verdict: 'unreachable', status: 503 },
  })
})

/** A mesh gateway of west that serves one name. */
async function gatewayServing(t: Test, mint: Mint, westRoot: Minted, sni: string) {
  const west = new AgentStandIn(mint, westRoot)
  await west.start()
  west.tell('gateway', [
    ['self', 'gateway', gatewaySelf()],
    ['roots', names.localRoots, { trustDomain: westDomain, peer: '', exportedPartition: '', pems: [westRoot.certPem] }],
    ['exported', sni, { sni, service: 'other', peer: 'us', endpoints: 'other' }],
    ['endpoints', 'other', { endpoints: [] }],
  ])
  const gateway = await startGateway({ proxyId: 'gateway', agent: { url: west.url }, admin, logger })
  await gateway.ready()
  t.teardown(async () => {
    await gateway.close()
    await west.stop()
  })
  return gateway
}
