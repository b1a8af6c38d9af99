/**
 * What an operator, or the machine, does to both clusters while traffic goes on in both directions: CAs rotated, gateways replaced, agents
 * restarted and killed, and gateways killed. A row says what failed in each direction, and what the generator itself stands for.
 */
import { availableParallelism, loadavg } from 'node:os'
import { setTimeout as pause } from 'node:timers/promises'
import { fullPace, halfPace, PacedTraffic, type Stretch } from '../../support/paced-traffic.ts'
import { until } from '../../support/processes.ts'
import type { Seen } from './apps.ts'
import { bothActive, patienceMs, type Side, type Way } from './side.ts'
import { isConsuls, lossesOf, problemsOf, say, type Row, type Table } from './table.ts'

/** A sidecar of Consul's renews its leaf within half a minute of a new root, and so does ours. */
const renewalMs = 45_000

const isRight = ({ status, json }: { status: number; json: unknown }, body: string) => status === 200 && (json as Seen).body === body

/** Half of the pace each way, at once; all of it each way under ISTHMUS_DEEP=1, for a machine that nobody else uses. */
const pace = process.env['ISTHMUS_DEEP'] === '1' ? fullPace : halfPace

class BothWays {
  readonly table: Table
  readonly #traffic: PacedTraffic[]

  constructor(ways: Way[], table: Table) {
    this.table = table
    this.#traffic = ways.map(
      ({ caller: { upstreams }, callee: { apps } }) =>
        new PacedTraffic({ httpPorts: [upstreams.api], tunnelPort: upstreams.db, appPort: apps.http, isRight, pace }),
    )
  }

  async settled(): Promise<void> {
    await Promise.all(this.#traffic.map(each => each.settled()))
  }

  async during(what: string, action: () => Promise<void>, afterMs: number): Promise<Stretch[]> {
    let acting: Promise<void> | undefined
    return Promise.all(this.#traffic.map(each => each.during(what, () => (acting ??= action()), afterMs)))
  }

  async stop(): Promise<void> {
    await Promise.all(this.#traffic.map(each => each.stop()))
  }
}

interface UnderTraffic {
  /** Whether what was lost may be lost; nothing where it is not said. */
  mayLose?: (stretch: Stretch) => boolean
  afterMs?: number
}

async function under(
  traffic: BothWays,
  what: string,
  action: () => Promise<void>,
  { mayLose = () => false, afterMs = 2000 }: UnderTraffic = {},
): Promise<void> {
  if (!traffic.table.isWanted(what)) return
  const made: Row = { what, seen: [], failed: false }
  say(`${new Date().toISOString()}  ${what}`)
  try {
    for (const stretch of await traffic.during(what, action, afterMs)) {
      made.seen.push(lossesOf(stretch))
      const problems = problemsOf(stretch)
      made.failed ||= problems.length > 0 && !mayLose(stretch)
      for (const problem of problems.slice(0, 8)) say(`      ${problem}`)
    }
  } catch (error) {
    made.failed = true
    made.seen.push((error as Error).message.slice(0, 300))
  }
  traffic.table.add(made)
  say(`      ${loadavg()[0]!.toFixed(1)} processes want one of ${availableParallelism()} CPUs`)
}

async function rotate(side: Side): Promise<void> {
  const before = await side.activeRoot()
  const Config = { LeafCertTTL: '72h', RotationPeriod: '2160h', PrivateKeyType: 'ec', PrivateKeyBits: 384 }
  await side.api('PUT', '/v1/connect/ca/configuration', { Provider: 'consul', Config })
  await until('a new root', async () => (await side.activeRoot()) !== before, patienceMs, 100)
  await pause(renewalMs)
}

/** A second gateway takes over, the first is taken out of the catalog, drains and ends. */
export async function replaceGateway({ caller, callee }: Way, wanHost?: string): Promise<void> {
  const known = (count: number) =>
    until(
      `${caller.name} knows ${count} gateways`,
      async () => {
        const statuses = await caller.imported('connect', 'api')
        return statuses.length === count && statuses.every(status => status === 'passing')
      },
      patienceMs,
    )
  const before = await callee.addGateway(wanHost)
  await known(2)
  await callee.carrier.endGateway(before, async () => void (await known(1)))
}

async function killGateway({ caller, callee }: Way): Promise<void> {
  const before = await callee.addGateway()
  await until('two gateways', async () => (await caller.imported('connect', 'api')).join() === 'passing,passing', patienceMs)
  await pause(1000)
  await callee.carrier.killGateway(before)
  await pause(2000)
  // A gateway of ours that vanished is still registered; an operator takes it out.
  await callee.api('PUT', `/v1/agent/service/deregister/${before}`)
}

export async function upheaval(ways: Way[], table: Table): Promise<void> {
  const traffic = new BothWays(ways, table)
  try {
    await traffic.settled()
    await under(traffic, 'nothing happens', () => pause(5000), { afterMs: 0 })
    for (const { callee } of ways) await under(traffic, `CA rotation of ${callee.name}`, () => rotate(callee))
    for (const way of ways) {
      const what = `planned gateway replacement at ${way.callee.name}`
      // A tunnel is bound to the gateway that it goes through, and ends with it.
      const mayLose = ({ failed, broken }: Stretch) => failed.length === 0 && broken.length <= pace.tunnels
      await under(traffic, what, () => replaceGateway(way), { mayLose })
    }
    for (const signal of ['SIGTERM', 'SIGKILL'] as const)
      for (const { callee } of ways) {
        const what = `${signal === 'SIGTERM' ? 'restart' : 'kill -9'} of the agent of ${callee.name}`
        const restart = async () => {
          await callee.restartAgent(signal)
          await pause(3000)
        }
        const mayLose = ({ failed, broken }: Stretch) => callee.name === 'Consul' && broken.length === 0 && failed.every(isConsuls)
        await under(traffic, what, restart, { mayLose })
      }
    await bothActive(ways[0]!.caller, ways[0]!.callee)
    for (const way of ways)
      await under(traffic, `kill -9 of a gateway of ${way.callee.name}: what was under way`, () => killGateway(way), {
        mayLose: () => true,
      })
  } finally {
    await traffic.stop()
  }
}
