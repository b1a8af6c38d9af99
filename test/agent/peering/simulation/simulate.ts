/**
 * One simulation from one seed: clusters are peered, things happen to them, then everything is whole again and has to come to rest
 * in the right place. Runs nothing but what the seed says: a seed that fails fails again.
 */
import { newRoot } from '../../../../src/agent/ca/root.ts'
import { defaultConfig, readSettings } from '../../../../src/agent/ca/configuration.ts'
import type { ReplicationMessage } from '../../../../src/wire/gen/peerstream.ts'
import { Cluster } from './cluster.ts'
import { Dice } from './dice.ts'
import { Invariants, type Way } from './invariants.ts'
import { Network, type Passing } from './network.ts'
import { Operators, type Pair } from './operators.ts'
import { anything, furnish, type World } from './scenario.ts'
import { Timeline } from './timeline.ts'
import { describe, WireMonitor } from './wire-monitor.ts'

export interface SimulationOptions {
  seed: number
  /** Gets every message and happening. */
  trace?: (line: string) => void
  /** What happens before all is to come to rest; anything, unless told. */
  scenario?: (world: World) => Promise<void>
  /** A defect, for tests of the simulation itself. */
  tamper?: (passing: Passing) => ReplicationMessage | undefined
}

export interface Outcome {
  seed: number
  /** Empty when everything held. */
  violations: string[]
  simulatedMs: number
  events: number
  messages: number
  largestBytes: number
}

const maxViolations = 10
/** Ids are drawn by the code under test; a trace is the same every time. */
const uuid = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g
/** Longer than a silence, and the waits of dialers that were told to stay away. */
const restMs = 900_000
/** What has come to rest stays there. */
const calmMs = 20_000
const checkEveryMs = 10_000
const restCheckMs = 5000

let roots: Promise<string[]> | undefined

/** Certificates are dear, and it does not matter which ones they are. */
function rootPems(): Promise<string[]> {
  const settings = readSettings(defaultConfig)
  roots ??= Promise.all(
    Array.from({ length: 9 }, async (_, serial) => {
      const { root } = await newRoot({ clusterId: 'simulation', serial: serial + 1, settings, nowMs: Date.now() })
      return root.rootCert
    }),
  )
  return roots
}

export async function simulate(options: SimulationOptions): Promise<Outcome> {
  return new Simulation(options, await rootPems()).run()
}

class Simulation {
  readonly #seed: number
  readonly #dice: Dice
  readonly #timeline = new Timeline()
  readonly #violations: string[] = []
  readonly #monitor: WireMonitor
  readonly #network: Network
  readonly #invariants: Invariants
  readonly #world: World
  readonly #trace: (line: string) => void
  readonly #violate: (what: string) => void
  readonly #scenario: (world: World) => Promise<void>
  #over = false

  constructor({ seed, trace, tamper, scenario = anything }: SimulationOptions, pems: string[]) {
    this.#scenario = scenario
    this.#seed = seed
    this.#dice = new Dice(seed)
    const [timeline, dice] = [this.#timeline, this.#dice]
    this.#trace = line => trace?.(`${(timeline.monotonicMs() / 1000).toFixed(3)} ${line.replace(uuid, '<id>')}`)
    const violate = (what: string): void => {
      this.#trace(`VIOLATION ${what}`)
      if (this.#violations.length < maxViolations) this.#violations.push(`${(timeline.monotonicMs() / 1000).toFixed(3)} s: ${what}`)
    }
    this.#violate = violate
    this.#monitor = new WireMonitor(violate)
    const say = (verb: string, { stream, from, message }: Passing): void => {
      const { dialer, acceptor } = stream.hosts
      if (trace)
        this.#trace(`${stream.hosts[from].cluster} ${verb} ${from === 'dialer' ? acceptor.cluster : dialer.cluster} ${describe(message)}`)
    }
    this.#network = new Network({
      timeline,
      dice,
      onSend: (passing, bytes, waiting) => {
        say('->', passing)
        this.#monitor.sent(passing, bytes, waiting)
      },
      onDeliver: passing => {
        say('=>', passing)
        this.#monitor.delivered(passing)
      },
      onEnd: ({ hosts }, side, { code, message }) => {
        this.#trace(`${hosts[side].cluster} -- ${hosts[side === 'dialer' ? 'acceptor' : 'dialer'].cluster} ends: ${code} ${message}`)
      },
      ...(tamper && { tamper }),
    })
    this.#network.withoutKeepalive = dice.chance(0.3)
    const clusters = namesOf(dice).map((name, i) => {
      const peers = new Set(allNames.filter(other => other !== name).map(other => nameFor(name, other)))
      return new Cluster({
        name,
        timeline,
        dice,
        network: this.#network,
        peers,
        roots: pems.slice(3 * i, 3 * i + 3),
        violate,
        onOpen: cluster => {
          this.#trace(`${name} starts`)
          this.#invariants.started(cluster)
        },
        onBatch: (cluster, batch) => this.#invariants.applied(cluster, batch),
      })
    })
    const pairs = pairsOf(clusters)
    this.#invariants = new Invariants({ ways: pairs.flatMap(waysOf), timeline, network: this.#network, violate })
    const operators = new Operators({ timeline, dice, trace: this.#trace })
    this.#world = { timeline, dice, network: this.#network, clusters, pairs, operators, bulkBytes: bulkBytesOf(seed), trace: this.#trace }
  }

  async run(): Promise<Outcome> {
    void this.#play().then(() => this.#comeToRest())
    void this.#watch()
    const stopped = await this.#timeline.run(() => this.#violations.length > 0 || this.#over)
    if (stopped !== undefined) this.#violate(stopped)
    for (const { process } of this.#world.clusters) process?.die(0)
    return {
      seed: this.#seed,
      violations: this.#violations,
      simulatedMs: this.#timeline.monotonicMs(),
      events: this.#timeline.events,
      messages: this.#monitor.messages,
      largestBytes: this.#monitor.largestBytes,
    }
  }

  async #play(): Promise<void> {
    const { clusters, pairs, operators, dice, timeline } = this.#world
    await Promise.all(clusters.map(each => each.start().then(() => furnish(this.#world, each))))
    for (const pair of pairs) operators.join(pair)
    await timeline.wait(dice.pick([0, 1000, 5000]))
    await this.#scenario(this.#world)
  }

  /** Checks now and then what no single message or write shows. */
  async #watch(): Promise<void> {
    for (;;) {
      await this.#timeline.wait(checkEveryMs)
      this.#invariants.check()
    }
  }

  /** Nothing is broken any more, and nobody does anything: all must become right, and stay. */
  async #comeToRest(): Promise<void> {
    const { clusters, pairs, operators, network, timeline } = this.#world
    for (const { acceptor, dialer } of pairs) network.heal(acceptor.name, dialer.name)
    await Promise.all(clusters.map(each => each.start()))
    this.#trace('everything is whole')
    const endMs = timeline.monotonicMs() + restMs
    let rightSinceMs: number | undefined
    for (;;) {
      const nowMs = timeline.monotonicMs()
      const unfinished = operators.busy.size > 0 ? ['an operator is busy'] : this.#invariants.unfinished()
      if (unfinished.length === 0) rightSinceMs ??= nowMs
      else if (rightSinceMs !== undefined || nowMs > endMs) unfinished.forEach(each => this.#violate(`at rest, ${each}`))
      if (rightSinceMs !== undefined && nowMs - rightSinceMs > calmMs) break
      await timeline.wait(restCheckMs)
    }
    this.#over = true
  }
}

/** Large data is dear to move: few seeds have it. */
function bulkBytesOf(seed: number): number {
  if (seed % 250 === 100) return 700_000
  return seed % 25 === 10 ? 90_000 : 0
}

const allNames = ['east', 'west', 'north']

function namesOf(dice: Dice): string[] {
  return allNames.slice(0, dice.chance(0.1) ? 3 : 2)
}

/** Local names are their owner's alone: neither the other's nor its datacenter's. */
function nameFor(owner: string, other: string): string {
  return `${other}-of-${owner}`
}

/** The first accepts and the second dials; of three each dials the one before it. */
function pairsOf(clusters: Cluster[]): Pair[] {
  return clusters.slice(1).map((dialer, i) => {
    const acceptor = clusters[i]!
    return { acceptor, dialer, dialerName: nameFor(acceptor.name, dialer.name), acceptorName: nameFor(dialer.name, acceptor.name) }
  })
}

function waysOf({ acceptor, dialer, dialerName, acceptorName }: Pair): Way[] {
  return [
    { exporter: acceptor, importer: dialer, peer: dialerName, source: acceptorName },
    { exporter: dialer, importer: acceptor, peer: acceptorName, source: dialerName },
  ]
}
