/** Intentions judged by us and by a real Envoy with the rules that Consul would give it. The live part needs ENVOY_BIN. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { parseConfigEntry, type ServiceIntentions } from '../../src/mesh/config-entry.ts'
import { checkConfigEntry, normaliseConfigEntry } from '../../src/mesh/config-entry-check.ts'
import { rbacOf, type RbacContext, type Rules } from './intention-rbac.ts'

interface Recorded extends RbacContext {
  recording: string
  entries: unknown[]
  rules: Rules
}

/** As the API takes it. */
function written(input: unknown): ServiceIntentions {
  const parsed = parseConfigEntry(input)
  if (!parsed.ok || parsed.value.kind !== 'service-intentions') throw new Error(`not taken: ${JSON.stringify(parsed)}`)
  const entry = normaliseConfigEntry(parsed.value)
  const problem = checkConfigEntry(entry)
  if (problem !== undefined) throw new Error(problem)
  return entry
}

t.test('intentions become the rules that a real Consul gave its Envoys', async t => {
  const recorded = JSON.parse(readFileSync('test/golden/envoy/rbac.json', 'utf8')) as Recorded[]
  for (const { recording, entries, rules, ...context } of recorded) t.same(rbacOf(entries.map(written), context), rules, recording)
  t.equal(recorded.length, 11)
})
