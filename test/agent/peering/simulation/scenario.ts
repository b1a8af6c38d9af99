/**
 * What happens in a simulation: rows of things that operators, services, disks and networks do, each with its weight, drawn by the
 * dice. Names and states come from small pools, so that the same things change again and again.
 */
import type { CheckServiceNode } from '../../../../src/mesh/service.ts'
import type { Cluster } from './cluster.ts'
import type { Dice } from './dice.ts'
import type { Network } from './network.ts'
import type { Operators, Pair } from './operators.ts'
import type { Timeline } from './timeline.ts'

/** Clusters as they are filled, and what happens to them. */
export interface World {
  timeline: Timeline
  dice: Dice
  network: Network
  clusters: Cluster[]
  pairs: Pair[]
  operators: Operators
  /** Bytes of a tag of the instances of a service that is larger than others; 0 in most runs. */
  bulkBytes: number
  trace: (line: string) => void
}

interface Happening {
  name: string
  weight: number
  happen: (world: World) => Promise<void> | void
}

const services = ['web', 'api', 'db']
const statuses = ['passing', 'passing', 'warning', 'critical']
const nodes = ['n1', 'n2', 'n3']
const protocols = ['tcp', 'http', 'grpc']

type Writing = (process: NonNullable<Cluster['process']>, cluster: Cluster) => Promise<unknown>

/** Somebody writes to a cluster that is up. It may die meanwhile: nobody waits for the answer. */
function write(world: World, writing: Writing): void {
  const cluster = world.dice.pick(world.clusters)
  if (!cluster.process) return
  // A write that lost against others, or came to a process that dies, is the writer's business.
  void writing(cluster.process, cluster).catch(() => undefined)
}

/** Registered with this chance, else deregistered. */
function comesOrGoes(world: World, request: ReturnType<typeof sidecar> | ReturnType<typeof gateway>, chance: number): void {
  const comes = world.dice.chance(chance)
  write(world, ({ catalog: at }) => (comes ? at.register(request) : at.deregister({ node: request.node, serviceId: request.service.id })))
}

const catalog: Happening[] = [
  { name: 'an instance is registered', weight: 8, happen: world => write(world, ({ catalog: at }) => at.register(instance(world.dice))) },
  {
    name: 'an instance goes',
    weight: 3,
    happen: world => {
      const [node, service] = [world.dice.pick(nodes), world.dice.pick(services)]
      write(world, ({ catalog: at }) => at.deregister({ node, serviceId: `${service}-${node}` }))
    },
  },
  {
    name: 'a node has a check',
    weight: 1,
    happen: ({ dice, ...world }) => {
      const check = { checkId: 'disk', name: 'disk', status: dice.pick(statuses) }
      const node = dice.pick(nodes)
      write({ dice, ...world }, ({ catalog: at }) => at.register({ node, address: `10.0.0.${node.slice(1)}`, check }))
    },
  },
  {
    name: 'a node goes',
    weight: 0.5,
    happen: world => {
      const node = world.dice.pick(nodes)
      write(world, ({ catalog: at }) => at.deregister({ node }))
    },
  },
  {
    name: 'a sidecar comes or goes',
    weight: 2,
    happen: world => comesOrGoes(world, sidecar(world.dice), 0.7),
  },
  {
    name: 'a gateway comes, changes or goes',
    weight: 2,
    happen: world => comesOrGoes(world, gateway(world.dice), 0.8),
  },
]

const configuration: Happening[] = [
  {
    name: 'the exports change',
    weight: 4,
    happen: world => {
      const seed = world.dice.next()
      write(world, ({ configEntries }, cluster) => configEntries.write(exports(world, cluster, seed)))
    },
  },
  {
    name: 'the exports change again and again',
    weight: 1,
    happen: async world => {
      const cluster = world.dice.pick(world.clusters)
      const drawn = [world.dice.next(), world.dice.next()]
      for (let i = 0; i < 6; i += 1) {
        if (cluster.process) void cluster.process.configEntries.write(exports(world, cluster, drawn[i % 2]!)).catch(() => undefined)
        await world.timeline.wait(world.dice.between(1, 300))
      }
    },
  },
  {
    name: 'a protocol changes',
    weight: 0.7,
    happen: world => {
      const entry = { name: world.dice.pick(services), protocol: world.dice.pick(protocols), createIndex: 0, modifyIndex: 0 }
      const full = { kind: 'service-defaults' as const, ...entry } as Parameters<Process['configEntries']['write']>[0]
      write(world, ({ configEntries }) => configEntries.write(full))
    },
  },
  { name: 'a root is added', weight: 0.4, happen: world => write(world, (_process, cluster) => cluster.addRoot()) },
  {
    name: 'a token is spent again',
    weight: 0.4,
    happen: ({ dice, operators, pairs }) => operators.join(dice.pick(pairs)),
  },
  { name: 'a peering is made anew', weight: 0.3, happen: ({ dice, operators, pairs }) => operators.remake(dice.pick(pairs)) },
]

const faults: Happening[] = [
  { name: 'connections are cut', weight: 3, happen: cutNow },
  {
    name: 'the network is severed',
    weight: 1.5,
    happen: async ({ dice, network, pairs, timeline }) => {
      const [a, b] = namesOf(dice.pick(pairs))
      // For a moment, until it is noticed, or until long after.
      const ms = dice.chance(0.6) ? dice.between(100, 10_000) : dice.between(30_000, 200_000)
      if (network.isSevered(a, b)) return
      network.sever(a, b)
      await timeline.wait(ms)
      network.heal(a, b)
    },
  },
  {
    name: 'the network is slow',
    weight: 1,
    happen: async ({ dice, network, timeline }) => {
      network.latency = [50, 3000]
      await timeline.wait(dice.between(1000, 20_000))
      network.latency = [1, 40]
    },
  },
  {
    name: 'a disk is slow',
    weight: 1,
    happen: async ({ dice, clusters, timeline }) => {
      const cluster = dice.pick(clusters)
      cluster.diskIsSlow = true
      await timeline.wait(dice.between(1000, 20_000))
      cluster.diskIsSlow = false
    },
  },
  {
    name: 'a cluster crashes',
    weight: 1.5,
    happen: async ({ dice, clusters, timeline }) => {
      const cluster = dice.pick(clusters)
      if (!cluster.process) return
      cluster.crash(dice.chance(0.3))
      await timeline.wait(dice.chance(0.7) ? dice.between(10, 3000) : dice.between(10_000, 150_000))
      await cluster.start()
    },
  },
  {
    name: 'a cluster is stopped',
    weight: 0.7,
    happen: async ({ dice, clusters, timeline }) => {
      const cluster = dice.pick(clusters)
      if (!cluster.process) return
      await Promise.race([cluster.stop(), timeline.wait(5000)])
      if (cluster.process) cluster.crash(false)
      await timeline.wait(dice.between(100, 20_000))
      await cluster.start()
    },
  },
]

/** More instances, or fewer, of a service that takes several messages' room and several transactions, or more than a message can hold. */
const bulk: Happening = {
  name: 'the bulk grows or shrinks',
  weight: 10,
  happen: world => {
    const count = world.dice.pick([0, 4, 13])
    const tag = String(world.dice.whole(0, 9)).repeat(world.bulkBytes)
    write(world, async ({ catalog: at }) => {
      for (let i = 0; i < 13; i += 1) {
        const node = `b${i}`
        if (i < count) await at.register({ node, address: '10.2.0.1', service: { id: node, service: 'bulk', tags: [tag], port: 80 } })
        else await at.deregister({ node })
      }
    })
  },
}

/** Whatever the dice say, for a while; over when what it broke for a time is whole again. */
export async function anything(world: World): Promise<void> {
  const { dice, timeline, trace, bulkBytes } = world
  // Most runs are short, so that there can be many; what needs a long story is found by the others.
  const count = dice.chance(0.25) ? dice.whole(5, 20) : dice.whole(1, 5)
  const paceMs = dice.pick([300, 3000, 10_000])
  const underWay: Promise<void>[] = []
  for (let i = 0; i < count; i += 1) {
    await timeline.wait(-Math.log(1 - dice.next()) * paceMs)
    const { name, happen } = dice.weighted([...catalog, ...configuration, ...faults, ...(bulkBytes > 0 ? [bulk] : [])])
    trace(`# ${name}`)
    underWay.push(Promise.resolve(happen(world)))
  }
  await Promise.all(underWay)
}

type Process = NonNullable<Cluster['process']>

function cutNow({ dice, network, pairs }: World): void {
  const [a, b] = namesOf(dice.pick(pairs))
  const laterMs = dice.chance(0.7) ? 0 : dice.between(100, 40_000)
  network.cut(a, b, dice.pick(['dialer', 'acceptor'] as const), laterMs)
}

/** A connection is cut every minute while the catalogs change; `onHour` is called after each. */
export function cutEveryMinute(hours: number, onHour: () => void): (world: World) => Promise<void> {
  return async world => {
    for (let minute = 1; minute <= hours * 60; minute += 1) {
      for (let i = 0; i < 2; i += 1) {
        await world.timeline.wait(world.dice.between(1000, 25_000))
        await world.dice.weighted(catalog).happen(world)
      }
      await world.timeline.wait(Math.max(0, minute * 60_000 - world.timeline.monotonicMs()))
      world.trace('# connections are cut')
      cutNow(world)
      if (minute % 60 === 0) onHour()
    }
  }
}

/** What a cluster has before anything happens to it. */
export async function furnish(world: World, cluster: Cluster): Promise<void> {
  const process = cluster.process!
  const count = world.dice.whole(0, 6)
  for (let i = 0; i < count; i += 1) await process.catalog.register(instance(world.dice))
  if (world.dice.chance(0.7)) {
    await process.catalog.register(gateway(world.dice))
    for (let i = 0; i < 3; i += 1) await process.catalog.register(sidecar(world.dice))
  }
  if (world.dice.chance(0.8)) await process.configEntries.write(exports(world, cluster, world.dice.next()))
}

/** An instance in one of a few states, with a check more often than not. */
function instance(dice: Dice) {
  const [node, service] = [dice.pick(nodes), dice.pick(services)]
  const id = `${service}-${node}`
  const checks = dice.chance(0.8) ? [{ checkId: id, name: 'alive', status: dice.pick(statuses), serviceId: id }] : []
  const meta: CheckServiceNode['service']['meta'] = dice.chance(0.3) ? { version: dice.pick(['1', '2']) } : null
  return {
    node,
    address: `10.0.0.${node.slice(1)}`,
    service: { id, service, port: dice.pick([8080, 8081]), tags: dice.chance(0.3) ? ['canary'] : [], meta },
    checks,
  }
}

function sidecar(dice: Dice) {
  const [node, destination] = [dice.pick(nodes), dice.pick(services)]
  const proxy = { destinationServiceName: destination, mode: '' as const, meshGateway: {}, expose: {} }
  const kind = 'connect-proxy' as const
  const service = { id: `${destination}-${node}-proxy`, service: `${destination}-sidecar-proxy`, kind, port: 21_000, proxy }
  return { node, address: `10.0.0.${node.slice(1)}`, service }
}

function gateway(dice: Dice) {
  const node = dice.pick(['g1', 'g2'])
  const check = { checkId: 'gateway', name: 'gateway', status: dice.pick(statuses), serviceId: 'gateway' }
  const service = { id: 'gateway', service: 'gateway', kind: 'mesh-gateway' as const, port: dice.pick([8443, 8444]) }
  return { node, address: '10.1.0.1', service, check }
}

/** To each peer some services, by name or all of them; `drawn` decides. */
function exports({ pairs, bulkBytes }: World, cluster: Cluster, drawn: number) {
  const peers = pairs.flatMap(pair => (pair.acceptor === cluster ? [pair.dialerName] : pair.dialer === cluster ? [pair.acceptorName] : []))
  let left = Math.floor(drawn * 2 ** 30)
  const draw = (sides: number) => {
    const value = left % sides
    left = Math.floor(left / sides)
    return value
  }
  const rows = [...services, 'bulk', '*'].map(name => ({
    name,
    consumers: peers
      .filter(() => (name === 'bulk' ? bulkBytes > 0 && draw(4) > 0 : draw(name === '*' ? 6 : 2) === 0))
      .map(peer => ({ peer })),
  }))
  return {
    kind: 'exported-services' as const,
    name: 'default',
    services: rows.filter(row => row.consumers.length > 0),
    createIndex: 0,
    modifyIndex: 0,
  }
}

function namesOf({ acceptor, dialer }: Pair): [string, string] {
  return [acceptor.name, dialer.name]
}
