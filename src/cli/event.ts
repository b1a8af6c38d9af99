/** `isthmus event`: fires a user event, which this agent lists. */
import type { Command } from 'commander'
import { agentCommand, doing, say } from './command.ts'
import { CliError, type CliContext } from './context.ts'

interface Flags {
  name?: string
  node?: string
  service?: string
  tag?: string
}

export function registerEvent(program: Command, context: CliContext): void {
  agentCommand<Flags>(program, 'event', 'Fire an event that watchers of the agent see', context, async call => {
    const { name, node, service, tag } = call.flags
    if (!name) throw new CliError('Event name must be specified')
    const [payload] = call.args
    if (tag && !service) throw new CliError('Cannot provide tag filter without service filter.')
    const body = payload === undefined ? undefined : Buffer.from(payload)
    const fired = await doing(
      'firing event',
      call.client.json<{ ID: string }>('PUT', `/v1/event/fire/${encodeURIComponent(name)}`, { query: { node, service, tag }, body }),
    )
    say(context, `Event ID: ${fired.ID}`)
  })
    .argument('[payload]')
    .option('--name <name>', 'name of the event')
    .option('--node <pattern>', 'only for nodes whose name matches')
    .option('--service <pattern>', 'only for nodes with a service that matches')
    .option('--tag <pattern>', 'with --service: only with a tag that matches')
}
