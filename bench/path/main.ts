/**
 * `npm run bench:path`: CPU for a request of an isthmus pair beside other proxies', on the same machine and in the same minutes.
 * Prints a table; --json and --svg write files.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { parseArgs } from 'node:util'
import { messageOf } from '../../src/lib/errors.ts'
import { hasProc } from '../machine/process.ts'
import { connectionsChart } from './chart.ts'
import { benchPath, type Wish } from './bench.ts'
import { others } from './contenders.ts'
import { chosen, memory, scenarios } from './scenarios.ts'
import { heading, memoryTable, missingLine, scenarioTable } from './table.ts'

const usage = `npm run bench:path -- [--rounds 15] [--seconds 3] [--only small-64,open-1000] [--against nginx,haproxy,envoy]
    [--node PATH]... [--build DIST]... [--json bench/results/path.json] [--svg FILE]

--only     scenarios: ${[...scenarios.map(({ name }) => name), memory].join(', ')}; small* for all that begin so
--against  ${others.join(', ')}; all of them without
--node     run isthmus with this Node; give it again to have several in the table
--build    measure this dist folder of isthmus too`

interface Arguments extends Omit<Wish, 'progress' | 'missing' | 'done'> {
  json: string
  svg: string | undefined
}

function readArguments(): Arguments {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '15' },
      seconds: { type: 'string', default: '3' },
      only: { type: 'string' },
      against: { type: 'string' },
      node: { type: 'string', multiple: true, default: [] },
      build: { type: 'string', multiple: true, default: [] },
      json: { type: 'string', default: 'bench/results/path.json' },
      svg: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    process.exit(0)
  }
  const against = values.against?.split(',')
  const unknown = against?.filter(name => !others.some(other => other === name)) ?? []
  if (unknown.length > 0) throw new Error(`--against ${unknown.join(',')}: there are ${others.join(', ')}`)
  return {
    ...chosen(values.only?.split(',')),
    rounds: positive('--rounds', values.rounds),
    seconds: positive('--seconds', values.seconds),
    against,
    nodes: values.node,
    builds: values.build,
    json: values.json,
    svg: values.svg,
  }
}

function positive(flag: string, text: string): number {
  const number = Number(text)
  if (!(number > 0)) throw new Error(`${flag} ${text}: give a number above 0`)
  return number
}

function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
}

try {
  const { json, svg, ...wish } = readArguments()
  if (!hasProc()) throw new Error('this reads CPU time from /proc: run it on Linux')
  const report = await benchPath({
    ...wish,
    progress: text => process.stderr.isTTY && process.stderr.write(`\r${text}\u001b[K`),
    missing: each => console.error(missingLine(each)),
    done: each => console.log(scenarioTable(each)),
  })
  if (report.memory.length > 0) console.log(memoryTable(report.memory))
  console.log(`\n${[heading(report), ...report.absent.map(missingLine)].join('\n')}`)
  write(json, `${JSON.stringify(report, undefined, 2)}\n`)
  if (svg !== undefined) write(svg, connectionsChart(report))
} catch (error) {
  console.error(messageOf(error))
  process.exitCode = 1
}
