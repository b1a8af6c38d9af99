/** `isthmus intention test`: tests of intentions and routes, for CI. Exit code 0 when every case is as expected, else 1. */
import type { Command } from 'commander'
import { EntrySet } from '../mesh/entry-set.ts'
import { callOf, differences, parseCases, titleOf, type CaseFile } from '../mesh/intention-cases.ts'
import { providerResource } from '../mesh/jwt-provider.ts'
import { Outcomes } from '../mesh/outcome.ts'
import { Tokens } from '../wire/tokens.ts'
import { agentEntries, entryOf, type AgentEntries } from './agent-entries.ts'
import type { AgentClient } from './client.ts'
import { agentCommand, checkFormat, readText, say, withFormat } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { parseDocument } from './document.ts'

export function registerIntentionTest(intention: Command, context: CliContext): void {
  const what = 'Test what intentions and routes decide: exit code 0 if all is as expected, else 1'
  const command = agentCommand<{ format: string }>(intention, 'test', what, context, async ({ args, client, flags }) => {
    const format = checkFormat(flags.format)
    const [name, ...more] = args
    if (name === undefined || more.length > 0) throw new CliError('Say which file holds the cases: isthmus intention test FILE')
    const parsed = parseCases(parseDocument(await readText(name, context), name))
    if (!parsed.ok) throw new CliError(`${name} holds no cases:\n${parsed.problems.map(each => `  ${each}`).join('\n')}`)
    const { file } = parsed
    const { entries, context: cluster } = await entriesOf(file, name, client)
    const outcomes = new Outcomes(entries, { ...cluster, ...(file.default ? { defaultAction: file.default } : {}) })
    const tokens = new Tokens(new Map(entries.all('jwt-provider').map(each => [each.name, providerResource(each)])))
    const results = file.cases.map(each => ({
      title: titleOf(each),
      differs: differences(each, outcomes.of(callOf(each, request => tokens.explain(request)))),
    }))
    const failed = results.filter(each => each.differs.length > 0)
    if (format === 'json')
      say(
        context,
        JSON.stringify({
          Passed: results.length - failed.length,
          Failed: failed.map(each => ({ Case: each.title, Differs: each.differs })),
        }),
      )
    else {
      for (const { title, differs } of failed) say(context, `FAILED ${title}\n${differs.map(each => `  ${each}`).join('\n')}`)
      say(context, `${results.length - failed.length} passed, ${failed.length} failed`)
    }
    if (failed.length > 0) throw new CliError('')
  })
  withFormat(command).argument('[file]', 'cases as JSON or YAML; - for standard input')
}

/** Those of the file, which needs no agent then; else the agent's. */
async function entriesOf(file: CaseFile, name: string, client: AgentClient): Promise<Omit<AgentEntries, 'services'>> {
  if (file.entries === undefined) return agentEntries(client)
  const entries = file.entries.map((each, i) => entryOf(each, `${name}: entries[${i}]`))
  // As an agent that was told nothing.
  return { entries: new EntrySet(entries), context: { datacenter: file.datacenter, defaultAction: 'allow' } }
}
