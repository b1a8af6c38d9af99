/** `isthmus connect`: the settings of the cluster's CA. */
import type { Command } from 'commander'
import { messageOf } from '../lib/errors.ts'
import { isObject } from '../lib/shape.ts'
import { agentCommand, doing, readText, say } from './command.ts'
import { CliError, type CliContext } from './context.ts'

const configuration = '/v1/connect/ca/configuration'

export function registerConnect(program: Command, context: CliContext): void {
  const ca = program.command('connect').description('The mesh').command('ca').description("The cluster's CA")
  agentCommand(ca, 'get-config', 'Show its settings', context, async call => {
    const found = await doing('querying CA configuration', call.client.json<unknown>('GET', configuration))
    say(context, JSON.stringify(found, undefined, '\t'))
  })
  agentCommand<{ configFile?: string; forceWithoutCrossSigning?: boolean }>(
    ca,
    'set-config',
    'Change its settings',
    context,
    async call => {
      const { configFile, forceWithoutCrossSigning } = call.flags
      if (configFile === undefined) throw new CliError('The -config-file flag is required')
      const text = await doing('reading config file', readText(configFile, context))
      const body = { ...parsed(text), ...(forceWithoutCrossSigning ? { ForceWithoutCrossSigning: true } : {}) }
      await doing('setting CA configuration', call.client.call('PUT', configuration, { body }))
      say(context, 'Configuration updated!')
    },
  )
    .option('--config-file <file>', 'the settings in JSON, as get-config shows them; - for standard input')
    .option('--force-without-cross-signing', 'change the root though the old one does not sign the new one')
}

function parsed(text: string): object {
  let settings: unknown
  try {
    settings = JSON.parse(text)
  } catch (error) {
    throw new CliError(`Error parsing config file: ${messageOf(error)}`, 1, { cause: error })
  }
  if (isObject(settings)) return settings
  throw new CliError('Error parsing config file: it is not a JSON object; write it as get-config shows it')
}
