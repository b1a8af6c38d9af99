/** `isthmus validate`: reads an agent's configuration as the agent would, and starts nothing. */
import type { Command } from 'commander'
import { messageOf } from '../lib/errors.ts'
import { parseConfigFormat, say } from './command.ts'
import { CliError, type CliContext } from './context.ts'

export function registerValidate(program: Command, context: CliContext): void {
  program
    .command('validate')
    .description("Check an agent's configuration")
    .argument('[files...]', 'files and directories of HCL, JSON or YAML')
    .option('--config-format <format>', 'hcl, json or yaml: what a file is whose name does not say it', parseConfigFormat)
    .option('--quiet', 'print only what is wrong')
    .action(async (files: string[], flags: { configFormat?: 'hcl' | 'json' | 'yaml'; quiet?: boolean }) => {
      if (files.length === 0) throw new CliError('Must specify at least one config file or directory')
      // Loaded here, so that a command of the API does not wait for it.
      const { loadConfig } = await import('../agent/config.ts')
      let warnings: string[]
      try {
        ;({ warnings } = loadConfig({ files, format: flags.configFormat }))
      } catch (error) {
        throw new CliError(`Config validation failed: ${messageOf(error).trimEnd()}`, 1, { cause: error })
      }
      if (flags.quiet) return
      for (const warning of warnings) say(context, warning)
      say(context, 'Configuration is valid!')
    })
}
