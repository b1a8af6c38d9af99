/**
 * isthmus peered with a real Consul over the real wire, once with each as the dialer. Needs the binary: CONSUL_BIN names it. Both
 * clusters register the same things, so what one imports must equal what the other imports, names and indexes apart.
 */
import t, { type Test } from 'tap'
import { freePorts } from '../support/free-ports.ts'
import { call, ClusterProcess, until } from '../support/processes.ts'
import { consulBin, consulCli, ConsulProcess } from './consul-process.ts'

const skip = consulBin === undefined && 'CONSUL_BIN is not set: nothing was tested against a real Consul'
t.setTimeout(600_000)
if (skip) process.stderr.write(`# SKIPPED: ${skip}\n`)

type Cluster = ClusterProcess | ConsulProcess
/** A cluster with its own name for the other one. */
interface Side {
  cluster: Cluster
  peer: string
}
interface Scene {
  isthmus: Side & { cluster: ClusterProcess }
  consul: Side & { cluster: ConsulProcess }
  acceptor: Side
  dialer: Side
}
interface Instance {
  Service: { Service: string }
  Checks: { Status: string }[]
}

/** A real dialer's backoff after a break, and the pace of its leader loop (peering-wire.md 6.2, 6.4). */
const patienceMs = 60_000
const eventually = <T>(what: string, probe: () => Promise<T | undefined | false>) => until(what, probe, patienceMs)

async function start(dialer: 'isthmus' | 'Consul'): Promise<Scene> {
  const [ours, theirs] = await Promise.all([ClusterProcess.start('alpha'), ConsulProcess.start('omega')])
  const isthmus = { cluster: ours, peer: 'the-consul' }
  const consul = { cluster: theirs, peer: 'the-isthmus' }
  return dialer === 'isthmus'
    ? { isthmus, consul, acceptor: consul, dialer: isthmus }
    : { isthmus, consul, acceptor: isthmus, dialer: consul }
}

const sidesOf = ({ isthmus, consul }: Scene): [Side, Side][] => [
  [isthmus, consul],
  [consul, isthmus],
]

async function peeringOf({ cluster, peer }: Side): Promise<{ State?: string; PeerCAPems?: string[] }> {
  const answer = await cluster.api('GET', `/v1/peering/${peer}`, undefined, true)
  return answer.status === 200 ? (answer.json as { State: string }) : {}
}

const state = (side: Side, wanted: string) =>
  eventually(`${side.cluster.datacenter} sees ${side.peer} ${wanted}`, async () => (await peeringOf(side)).State === wanted)

/** With Consul's own command line on both sides, as an operator would. */
async function peer({ acceptor, dialer, isthmus, consul }: Scene): Promise<void> {
  const made = await consulCli(acceptor.cluster.ports.http, 'peering', 'generate-token', '-name', acceptor.peer)
  if (made.code !== 0) throw new Error(made.stderr)
  const token = made.stdout.trim()
  const joined = await consulCli(dialer.cluster.ports.http, 'peering', 'establish', '-name', dialer.peer, '-peering-token', token)
  if (joined.code !== 0) throw new Error(joined.stderr)
  await Promise.all([state(isthmus, 'ACTIVE'), state(consul, 'ACTIVE')])
}

async function register({ cluster }: Side, service: { Service: string } & Record<string, unknown>, status = 'passing'): Promise<void> {
  await cluster.api('PUT', '/v1/catalog/register', {
    Node: 'app-1',
    ID: '11111111-2222-4333-8444-555555555555',
    Address: '127.0.0.1',
    NodeMeta: { rack: 'r1' },
    Service: { ID: service.Service, ...service },
    Check: { Node: 'app-1', CheckID: `${service.Service}-check`, Name: 'check', Status: status, ServiceID: service.Service },
  })
}

const wan = { lan: { Address: '127.0.0.1', Port: 8443 }, wan: { Address: '127.0.0.2', Port: 9443 } }
const gateway = { Service: 'mesh-gateway', Kind: 'mesh-gateway', Address: '127.0.0.1', Port: 8443, TaggedAddresses: wan }
const plain = {
  Service: 'plain',
  Address: '127.0.0.3',
  Port: 1111,
  Tags: ['b', 'a'],
  Meta: { v: '1' },
  Weights: { Passing: 7, Warning: 2 },
}

async function exportTo({ cluster, peer }: Side, ...names: string[]): Promise<void> {
  const Services = names.map(Name => ({ Name, Consumers: [{ Peer: peer }] }))
  await cluster.api('PUT', '/v1/config', { Kind: 'exported-services', Name: 'default', Services })
}

async function imported({ cluster, peer }: Side, kind: 'service' | 'connect', service: string): Promise<Instance[]> {
  return (await cluster.api('GET', `/v1/health/${kind}/${service}?peer=${peer}`)).json as Instance[]
}

const arrives = (importer: Side, kind: 'service' | 'connect', service: string, status: string | undefined) =>
  eventually(`${kind} ${service} at ${importer.cluster.datacenter} is ${status ?? 'gone'}`, async () => {
    const [instance] = await imported(importer, kind, service)
    return instance?.Checks[0]?.Status === status
  })

/** What may differ between two clusters that imported the same: names, the trust domain, indexes, virtual addresses. */
function neutral(instances: Instance[]): unknown {
  return JSON.parse(
    // The age is isthmus's own.
    JSON.stringify(instances, (key, value: unknown) =>
      key === 'Freshness' ? undefined : ['CreateIndex', 'ModifyIndex'].includes(key) ? 0 : value,
    )
      .replaceAll(/the-(?:consul|isthmus)/g, 'PEER')
      .replaceAll(/alpha|omega/g, 'DC')
      .replaceAll(/[0-9a-f-]{36}\.consul/g, 'TRUST-DOMAIN')
      .replaceAll(/240\.0\.0\.\d+/g, 'VIRTUAL'),
  )
}

async function exportsArrive(t: Test, scene: Scene): Promise<void> {
  for (const [exporter, importer] of sidesOf(scene)) {
    await exporter.cluster.api('PUT', '/v1/config', { Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
    await register(exporter, plain)
    for (const name of ['api', 'db']) {
      await register(exporter, { Service: name, Port: 2222 })
      const Proxy = { DestinationServiceName: name, DestinationServiceID: name }
      await register(exporter, { Service: `${name}-sidecar-proxy`, Kind: 'connect-proxy', Port: 3333, Proxy })
    }
    await exportTo(exporter, 'plain', 'api', 'db', 'absent')
    for (const name of ['plain', 'api', 'db']) await arrives(importer, 'service', name, 'passing')
    t.same(await imported(importer, 'connect', 'api'), [], 'without a mesh gateway nothing can be dialled')
    await register(exporter, gateway)
    for (const name of ['api', 'db']) await arrives(importer, 'connect', name, 'passing')
  }
  for (const kind of ['service', 'connect'] as const) {
    for (const name of ['plain', 'api', 'db', 'absent', 'api-sidecar-proxy']) {
      const [ours, theirs] = [await imported(scene.isthmus, kind, name), await imported(scene.consul, kind, name)]
      t.same(neutral(ours), neutral(theirs), `health/${kind}/${name}?peer= is the same on both sides`)
    }
  }
  for (const side of [scene.isthmus, scene.consul]) {
    const { StreamStatus } = (await peeringOf(side)) as { StreamStatus: Record<string, string[]> }
    const names = ['absent', 'api', 'db', 'plain']
    t.match(StreamStatus, { ImportedServices: names, ExportedServices: names })
  }
  const { StreamStatus } = (await peeringOf(scene.isthmus)) as { StreamStatus: { Freshness: { Evidence: string } } }
  t.match(StreamStatus.Freshness.Evidence, /^(?:resync|received)$/, 'a real Consul confirms nothing')
}

async function changesArrive(scene: Scene): Promise<void> {
  for (const [exporter, importer] of sidesOf(scene)) {
    await register(exporter, plain, 'critical')
    await register(exporter, gateway, 'warning')
    await arrives(importer, 'service', 'plain', 'critical')
    await arrives(importer, 'connect', 'db', 'warning')
    await register(exporter, plain)
    await register(exporter, gateway)
    await arrives(importer, 'service', 'plain', 'passing')
    await arrives(importer, 'connect', 'db', 'passing')
    await exportTo(exporter, 'db')
    for (const name of ['plain', 'api']) await arrives(importer, 'service', name, undefined)
    await arrives(importer, 'connect', 'api', undefined)
    await exportTo(exporter, '*')
    await arrives(importer, 'connect', 'api', 'passing')
    await register(exporter, { Service: 'later', Port: 1 })
    await arrives(importer, 'service', 'later', 'passing')
    await exporter.cluster.api('PUT', '/v1/catalog/deregister', { Node: 'app-1', ServiceID: 'later' })
    await arrives(importer, 'service', 'later', undefined)
  }
}

/** Something new crosses each way. */
async function flows(scene: Scene): Promise<void> {
  for (const [exporter, importer] of sidesOf(scene)) {
    await register(exporter, plain, 'warning')
    await arrives(importer, 'service', 'plain', 'warning')
    await register(exporter, plain)
    await arrives(importer, 'service', 'plain', 'passing')
  }
}

async function rootsOf({ cluster }: Side): Promise<string[]> {
  const { Roots } = (await cluster.api('GET', '/v1/connect/ca/roots')).json as { Roots: { RootCert: string }[] }
  return Roots.map(root => root.RootCert.trim()).toSorted()
}

/** The other side knows the new root, and after a break still finds the way: its TLS rests on the bundle it was given. */
async function rotatedRootsArrive(t: Test, scene: Scene): Promise<void> {
  for (const [rotating, other] of sidesOf(scene)) {
    const Config = { LeafCertTTL: '72h', RotationPeriod: '2160h', PrivateKeyType: 'ec', PrivateKeyBits: 384 }
    await rotating.cluster.api('PUT', '/v1/connect/ca/configuration', { Provider: 'consul', Config })
    await eventually('two roots', async () => (await rootsOf(rotating)).length === 2)
    const roots = await rootsOf(rotating)
    await eventually(`${other.cluster.datacenter} has the new root`, async () => {
      const known = (await peeringOf(other)).PeerCAPems ?? []
      return JSON.stringify(known.map(pem => pem.trim()).toSorted()) === JSON.stringify(roots)
    })
    t.pass(`the roots of ${rotating.cluster.datacenter} arrived`)
  }
}

async function breaksHeal(t: Test, scene: Scene): Promise<void> {
  const { isthmus, consul } = scene
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    await isthmus.cluster.agent.stop(signal)
    await state(consul, 'FAILING')
    await isthmus.cluster.restartAgent()
    await Promise.all([state(isthmus, 'ACTIVE'), state(consul, 'ACTIVE')])
    await flows(scene)
    await consul.cluster.agent.stop(signal)
    await state(isthmus, 'FAILING')
    t.equal((await imported(isthmus, 'connect', 'api')).length, 1, 'what was imported stays while the peer is away')
    await consul.cluster.restart()
    await Promise.all([state(isthmus, 'ACTIVE'), state(consul, 'ACTIVE')])
    await flows(scene)
    t.pass(`both sides came back after ${signal}`)
  }
}

async function deletionsArrive(t: Test, scene: Scene): Promise<void> {
  for (const [deleting, other] of sidesOf(scene)) {
    await deleting.cluster.api('DELETE', `/v1/peering/${deleting.peer}`)
    await state(other, 'TERMINATED')
    await arrives(other, 'service', 'plain', undefined)
    await eventually('the peering is gone', async () => (await peeringOf(deleting)).State === undefined)
    // A terminated acceptor of Consul takes a new token only once it is deleted (9.3); ours begins anew.
    if (other === scene.consul && other === scene.acceptor) {
      await other.cluster.api('DELETE', `/v1/peering/${other.peer}`)
      await eventually('the terminated one is gone', async () => (await peeringOf(other)).State === undefined)
    }
    await peer(scene)
    await flows(scene)
    t.pass(`deleted in ${deleting.cluster.datacenter} and peered again`)
  }
}

/** Connections that our gateway has passed on to the servers of one side. */
async function passed({ cluster }: Scene['isthmus'], name: string): Promise<number> {
  const metrics = (await call(cluster.adminPort('gateway'), '/metrics')).text.split('\n')
  const line = metrics.find(each => each.startsWith('isthmus_proxy_dials_total{') && each.includes(`"${name}"`) && each.includes('"ok"'))
  return Number(line?.split(' ').at(-1) ?? 0)
}

/** Our gateway before our servers, and between them and Consul's (11). A real Consul finds its way in by the address in the token. */
async function gatewaysCarry(t: Test, scene: Scene): Promise<void> {
  const { isthmus, consul, acceptor, dialer } = scene
  for (const { cluster } of [isthmus, consul]) {
    await cluster.api('PUT', '/v1/catalog/deregister', { Node: 'app-1', ServiceID: 'mesh-gateway' })
  }
  const [lan, wanPort] = (await freePorts(2)) as [number, number]
  await isthmus.cluster.proxy('gateway', 'gateway', '--address', `127.0.0.1:${lan}`, '--wan-address', `127.0.0.1:${wanPort}`)
  await isthmus.cluster.api('PUT', '/v1/config', { Kind: 'mesh', Peering: { PeerThroughMeshGateways: true } })
  if (acceptor === isthmus) {
    await eventually('Consul is told the gateway', async () => {
      const { PeerServerAddresses } = (await peeringOf(consul)) as { PeerServerAddresses?: string[] }
      return PeerServerAddresses?.join() === `127.0.0.1:${wanPort}`
    })
  }
  await dialer.cluster.api('DELETE', `/v1/peering/${dialer.peer}`)
  await state(acceptor, 'TERMINATED')
  await acceptor.cluster.api('DELETE', `/v1/peering/${acceptor.peer}`)
  for (const side of [isthmus, consul]) await eventually('gone', async () => (await peeringOf(side)).State === undefined)
  await peer(scene)
  await flows(scene)
  const name = acceptor === isthmus ? 'consul' : `consul?peer=${isthmus.peer}`
  t.ok((await passed(isthmus, name)) >= 2, 'the secret and the stream passed our gateway')
}

/** Consul deletes while we are away: nobody is there to be told, and its servers know nothing of us when we come back (9.1). */
async function forgottenIsTold(t: Test, { isthmus, consul }: Scene): Promise<void> {
  await isthmus.cluster.agent.stop()
  await consul.cluster.api('DELETE', `/v1/peering/${consul.peer}`)
  await eventually('the peering is gone', async () => (await peeringOf(consul)).State === undefined)
  await isthmus.cluster.restartAgent()
  await state(isthmus, 'FAILING')
  const { Warnings } = (await peeringOf(isthmus)) as { Warnings?: string[] }
  t.match(Warnings?.join('\n'), /unknown PeerID: \S+; it was deleted there: delete it here/)
}

for (const dialer of ['Consul', 'isthmus'] as const) {
  t.test(`${dialer} dials`, { skip, timeout: 600_000 }, async t => {
    const scene = await start(dialer)
    t.teardown(() => Promise.all([scene.isthmus.cluster.stop(), scene.consul.cluster.stop()]))
    await t.test('one token makes both sides ACTIVE', () => peer(scene))
    await t.test('exports arrive both ways and read the same', t => exportsArrive(t, scene))
    await t.test('health, un-export and the wildcard arrive both ways', () => changesArrive(scene))
    await t.test('a rotated root arrives both ways', t => rotatedRootsArrive(t, scene))
    await t.test('each side may stop or be killed', t => breaksHeal(t, scene))
    await t.test('each side may delete, and both peer again', t => deletionsArrive(t, scene))
    await t.test('peering passes our mesh gateway', t => gatewaysCarry(t, scene))
    if (dialer === 'isthmus') await t.test('who was forgotten while away is told so', t => forgottenIsTold(t, scene))
  })
}
