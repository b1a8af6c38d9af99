// The harness of the path benchmark: one tiny round of a real pair beside the direct way. It looks at the report's shape; what the
// numbers say is for `npm run bench:path` on a quiet machine.
import t from 'tap'
import { benchPath } from '../../bench/path/bench.ts'
import { connectionsChart } from '../../bench/path/chart.ts'
import { chosen } from '../../bench/path/scenarios.ts'
import { heading, scenarioTable } from '../../bench/path/table.ts'
import { hasProc, residentBytes, tree } from '../../bench/machine/process.ts'

t.test('a name that is no scenario is refused, and a star stands for the rest of a name', t => {
  t.throws(() => chosen(['small-3']), /no scenario small-3; there are small-1, /)
  t.same(
    chosen(['open*']).scenarios.map(({ name }) => name),
    ['open-200', 'open-1000', 'open-4000'],
  )
  t.equal(chosen(undefined).memory, true)
  t.end()
})

t.test('the kernel tells of this process', { skip: hasProc() ? false : 'no /proc here' }, t => {
  t.equal(tree(process.pid)[0], process.pid)
  t.ok(residentBytes(process.pid) > 10 * 1024 * 1024)
  t.end()
})

t.test('a round measures isthmus beside the direct way', { skip: hasProc() ? false : 'no /proc here', timeout: 120_000 }, async t => {
  const missing: string[] = []
  const report = await benchPath({
    scenarios: chosen(['small-8']).scenarios,
    memory: false,
    rounds: 1,
    seconds: 0.3,
    nodes: [],
    builds: [],
    against: [],
    progress: () => undefined,
    missing: ({ name, reason }) => void missing.push(`${name}: ${reason}`),
    done: () => undefined,
  })
  t.same(missing, [], 'nothing was left out')
  const [scenario] = report.scenarios
  t.match(scenario, { name: 'small-8', hop: 'http', connections: 8, ratios: [] })
  t.same(
    scenario!.measured.map(({ name }) => name),
    ['isthmus', 'direct'],
  )
  const [ours, direct] = scenario!.measured
  t.ok(ours!.cpuMicros.median > 0, 'CPU was used')
  t.same(Object.keys(ours!.cpu), ['outbound', 'inbound'])
  t.same(Object.keys(ours!.besideMicros), ['agent'], "the agent's is told apart")
  t.equal(direct!.cpuMicros.median, 0)
  t.ok(ours!.requests > 0 && direct!.requests > 0)
  t.equal(ours!.errors, 0)
  t.ok(ours!.addedMs, 'times are told over the direct way')
  t.match(scenarioTable(scenario!), /isthmus Node .* outbound .*inbound .*\(agent\)/)
  t.match(heading(report), new RegExp(`Node ${process.version.replaceAll('.', '\\.')}`))
  const svg = connectionsChart(report)
  t.match(svg, /^<svg [^>]*>[\s\S]*<polyline [\s\S]*isthmus[\s\S]*<\/svg>\n$/)
  t.notMatch(svg, /NaN|undefined|Infinity/)
})
