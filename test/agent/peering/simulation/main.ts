/**
 * `npm run simulate`: many seeds, or one with a trace. Ends with the seeds that failed, what failed, and how to see it again.
 */
import { parseArgs } from 'node:util'
import { simulate } from './simulate.ts'

const usage = `npm run simulate -- [--seeds 2000] [--from 1] [--seed N [--trace]]

  --seeds N   so many seeds, from the one that --from names
  --seed N    this seed alone
  --trace     every message and happening of it`

function wholeNumber(flag: string, text: string): number {
  const number = Number(text)
  if (!Number.isInteger(number) || number < 0) throw new Error(`--${flag} ${text}: give a whole number`)
  return number
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string', default: '2000' },
      from: { type: 'string', default: '1' },
      seed: { type: 'string' },
      trace: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    return
  }
  const from = wholeNumber('from', values.seed ?? values.from)
  const count = values.seed === undefined ? wholeNumber('seeds', values.seeds) : 1
  const start = process.cpuUsage()
  const failed: number[] = []
  let [events, messages, simulatedMs] = [0, 0, 0]
  for (let seed = from; seed < from + count; seed += 1) {
    const outcome = await simulate({ seed, ...(values.trace && { trace: line => console.log(line) }) })
    events += outcome.events
    messages += outcome.messages
    simulatedMs += outcome.simulatedMs
    if (outcome.violations.length === 0) continue
    failed.push(seed)
    console.log([`seed ${seed} failed:`, ...outcome.violations].join('\n  '))
    console.log(`  see it again: npm run simulate -- --seed ${seed} --trace`)
  }
  const { user, system } = process.cpuUsage(start)
  const hours = (simulatedMs / 3_600_000).toFixed(1)
  const cpu = ((user + system) / 1e6).toFixed(1)
  console.log(
    `${count} seeds, ${failed.length} failed; ${hours} h of simulated time, ${messages} messages, ${events} events, ${cpu} s of CPU`,
  )
  if (failed.length > 0) process.exitCode = 1
}

await main()
