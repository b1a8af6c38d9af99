/**
 * Pure functions, in nanoseconds. `node dist/bench/micro/main.js [FILE]` prints a table and, given a file, writes the same as JSON.
 * Times depend on the machine; what is claimed is only that a decision costs the same with ten thousand intentions as with ten,
 * which test/mesh/cost.test.ts asserts.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { cases as balanceCases } from './balance.ts'
import { measure, type Case, type Measurement } from './measure.ts'
import { casesOf, sizes, worstCases } from './mesh.ts'
import { routeCounts, routingCases, wholeCase } from './routing.ts'

/** The codec's cases, where they are built. */
async function codecCases(): Promise<Case[]> {
  const file = new URL('./http1.js', import.meta.url)
  if (!existsSync(file)) return []
  const { cases } = (await import(file.href)) as { cases: Case[] }
  return cases
}

function table(measurements: readonly Measurement[]): string {
  const width = Math.max(...measurements.map(({ name }) => name.length))
  const rows = measurements.map(
    ({ name, ns, spread }) => `${name.padEnd(width)}  ${ns.toFixed(1).padStart(10)}  ${spread.toFixed(2).padStart(7)}`,
  )
  return [`${'case'.padEnd(width)}  ${'ns'.padStart(10)}  ${'spread'.padStart(7)}`, ...rows].join('\n')
}

const cases = [
  ...sizes.flatMap(casesOf),
  ...worstCases(),
  ...routeCounts.flatMap(routingCases),
  wholeCase(10, 10),
  wholeCase(1000, 10_000),
  ...balanceCases,
  ...(await codecCases()),
]
const measurements: Measurement[] = []
for (const each of cases) measurements.push(await measure(each))
console.log(table(measurements))
const path = process.argv[2]
if (path !== undefined) {
  const report = { node: process.version, cpu: cpus()[0]?.model ?? '', measurements }
  writeFileSync(path, `${JSON.stringify(report, undefined, 2)}\n`)
}
