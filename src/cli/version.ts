/** `isthmus version`. */
import type { Command } from 'commander'
import { version } from '../lib/version.ts'
import { checkFormat, say, withFormat } from './command.ts'
import type { CliContext } from './context.ts'

export function registerVersion(program: Command, context: CliContext): void {
  program.version(`isthmus v${version}`, '-v, --version', 'print the version')
  withFormat(program.command('version').description('Print the version')).action(({ format }: { format: string }) => {
    // The keys that Consul's test SDK reads (spec/cli.md 2).
    const json = { Version: version, Revision: '', Prerelease: '', BuildDate: '', RPC: { Default: 2, Min: 2, Max: 3 } }
    say(context, checkFormat(format) === 'json' ? JSON.stringify(json, undefined, 3) : `isthmus v${version}`)
  })
}
