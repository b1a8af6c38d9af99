/**
 * Peering in simulated time: thousands of runs in which clusters change while the network between them drops, delays and cuts, and
 * processes die. What fails names its seed; `npm run simulate -- --seed N --trace` shows it.
 */
import { createHash } from 'node:crypto'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { defects } from './simulation/defects.ts'
import { cutEveryMinute } from './simulation/scenario.ts'
import { simulate } from './simulation/simulate.ts'

// tap's own limit is for files of one second; by hand nobody raises it.
t.setTimeout(1_200_000)

const deep = process.env['ISTHMUS_DEEP'] === '1'
const seeds = deep ? 20_000 : 1000

void t.test(`the invariants hold for ${seeds} seeds`, { timeout: 1_200_000 }, async t => {
  const failed: string[] = []
  let messages = 0
  for (let seed = 1; seed <= seeds && failed.length < 5; seed += 1) {
    const outcome = await simulate({ seed })
    messages += outcome.messages
    if (outcome.violations.length > 0) failed.push(`seed ${seed}: ${outcome.violations[0]}`)
  }
  t.same(failed, [], 'npm run simulate -- --seed N --trace shows what happened')
  t.ok(messages > 20 * seeds, `${messages} messages were exchanged`)
})

void t.test('a seed gives the same run every time, and another seed another', async t => {
  const traceOf = async (seed: number): Promise<string> => {
    const hash = createHash('sha256')
    await simulate({ seed, trace: line => hash.update(`${line}\n`) })
    return hash.digest('hex')
  }
  const [first, again, other] = [await traceOf(5), await traceOf(5), await traceOf(6)]
  t.equal(first, again)
  t.not(first, other)
})

void t.test('a defect between the clusters is found', async t => {
  for (const { name, found, make } of defects) {
    let seed = 0
    let violations: string[] = []
    while (violations.length === 0 && seed < 100) {
      seed += 1
      ;({ violations } = await simulate({ seed, tamper: make() }))
    }
    t.match(violations[0] ?? 'nothing', found, `${name}: seed ${seed}`)
  }
})

const hours = deep ? 24 : 2

void t.test(`${hours} h with a cut every minute leave the clusters right and the memory flat`, { timeout: 1_200_000 }, async t => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const heapMiB: number[] = []
  const sample = (): void => {
    collect()
    heapMiB.push(process.memoryUsage().heapUsed / 1024 / 1024)
  }
  const { violations, simulatedMs } = await simulate({ seed: 24, scenario: cutEveryMinute(hours, sample) })
  t.same(violations, [])
  t.ok(simulatedMs >= hours * 3_600_000)
  t.equal(heapMiB.length, hours)
  t.ok(heapMiB.at(-1)! - heapMiB[0]! < 4, `heap by the hour, MiB: ${heapMiB.map(each => each.toFixed(1)).join(' ')}`)
})
