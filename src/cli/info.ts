/** `isthmus info`: what the agent says of itself, group by group. */
import type { Command } from 'commander'
import { agentCommand, doing, entriesByName, say } from './command.ts'
import type { CliContext } from './context.ts'

export function registerInfo(program: Command, context: CliContext): void {
  agentCommand(program, 'info', 'Show what the agent says of itself', context, async call => {
    const { Stats: stats } = await doing(
      'querying agent',
      call.client.json<{ Stats?: Record<string, Record<string, string>> }>('GET', '/v1/agent/self'),
    )
    for (const [group, values] of entriesByName(stats ?? {})) {
      say(context, [`${group}:`, ...entriesByName(values).map(([key, value]) => `\t${key} = ${value}`)].join('\n'))
    }
  })
}
