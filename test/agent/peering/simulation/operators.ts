/**
 * The operators of two clusters: they peer them, again and again until it works, take a peering away on both sides and make it anew.
 * Each step is given up after a while, because the process that was asked may have died.
 */
import type { Cluster, Process } from './cluster.ts'
import type { Dice } from './dice.ts'
import type { Timeline } from './timeline.ts'

export interface Pair {
  acceptor: Cluster
  dialer: Cluster
  /** The acceptor's name for the dialer. */
  dialerName: string
  /** The dialer's name for the acceptor. */
  acceptorName: string
}

const patienceMs = 10_000
const pauseMs = 1000

export class Operators {
  readonly #timeline: Timeline
  readonly #dice: Dice
  readonly #trace: (line: string) => void
  /** Pairs on which somebody works. */
  readonly busy = new Set<Pair>()

  constructor(options: { timeline: Timeline; dice: Dice; trace: (line: string) => void }) {
    this.#timeline = options.timeline
    this.#dice = options.dice
    this.#trace = options.trace
  }

  /** A token is made and spent; also for a peering that is there. */
  join(pair: Pair): void {
    this.#work(pair, () => this.#join(pair))
  }

  /** Both sides delete the peering, one of them first, and peer anew. */
  remake(pair: Pair): void {
    this.#work(pair, async () => {
      const sides: [Cluster, string][] = [
        [pair.acceptor, pair.dialerName],
        [pair.dialer, pair.acceptorName],
      ]
      if (this.#dice.chance(0.5)) sides.reverse()
      for (const [cluster, name] of sides) {
        this.#trace(`${cluster.name} deletes ${name}`)
        await this.#until(cluster, async ({ peerings, tables }) => {
          await peerings.delete(name)
          const left = tables.importedServices(name).value.length + tables.virtualIps(name).length
          return peerings.read(name).value === undefined && left === 0
        })
        await this.#timeline.wait(this.#dice.between(0, 5000))
      }
      await this.#join(pair)
    })
  }

  async #join({ acceptor, dialer, dialerName, acceptorName }: Pair): Promise<void> {
    let peeringToken = ''
    await this.#until(dialer, async process => {
      await this.#until(acceptor, async ({ peerings }) => {
        peeringToken = await peerings.generateToken({ peerName: dialerName })
        return true
      })
      await process.peerings.establish({ peerName: acceptorName, peeringToken })
      return true
    })
    this.#trace(`${dialer.name} has spent a token of ${acceptor.name}`)
  }

  #work(pair: Pair, work: () => Promise<void>): void {
    if (this.busy.has(pair)) return
    this.busy.add(pair)
    void work().then(() => this.busy.delete(pair))
  }

  /** Asks the process of the moment until it says yes. */
  async #until(cluster: Cluster, ask: (process: Process) => Promise<boolean>): Promise<void> {
    for (;;) {
      const { process } = cluster
      const asked = process ? ask(process).catch(() => false) : Promise.resolve(false)
      if (await Promise.race([asked, this.#timeline.wait(patienceMs).then(() => false)])) return
      await this.#timeline.wait(pauseMs)
    }
  }
}
