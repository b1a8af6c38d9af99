/** `isthmus config`: the cluster's config entries, exported services and intentions among them. */
import type { Command } from 'commander'
import { agentCommand, doing, readText, say, wholeNumber } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { field, parseDocument } from './document.ts'
import { parseConfigEntry } from '../mesh/config-entry.ts'

interface CasFlags {
  cas?: boolean
  modifyIndex?: number
}

export function registerConfig(program: Command, context: CliContext): void {
  const config = program.command('config').description('Read and write config entries')
  registerWrite(config, context)
  registerDelete(config, context)
  agentCommand<{ kind?: string; name?: string }>(config, 'read', 'Show one config entry as JSON', context, async call => {
    const { kind, name } = kindAndName(call.flags)
    const entry = await doing(
      `reading config entry ${kind}/${name}`,
      call.client.json<Record<string, unknown>>('GET', entryPath(kind, name)),
    )
    // A hash of the content that means nothing outside the agent, and is too large for a JSON number.
    const { Hash: _hash, ...rest } = entry
    say(context, JSON.stringify(rest, undefined, 4))
  })
    .option('--kind <kind>', 'for example service-defaults')
    .option('--name <name>', 'name of the entry')
  agentCommand<{ kind?: string; filter?: string }>(config, 'list', 'List the names of all entries of a kind', context, async call => {
    const { kind, filter } = call.flags
    if (!kind) throw new CliError('Must specify the -kind parameter')
    const entries = await doing(
      `listing config entries for kind ${JSON.stringify(kind)}`,
      call.client.json<Record<string, unknown>[]>('GET', `/v1/config/${encodeURIComponent(kind)}`, { query: { filter } }),
    )
    for (const entry of entries) say(context, entryName(entry, kind))
  })
    .option('--kind <kind>', 'for example service-defaults')
    .option('--filter <expression>', 'only entries that match')
}

function registerWrite(config: Command, context: CliContext): void {
  const command = agentCommand<CasFlags>(config, 'write', 'Create or replace a config entry', context, async call => {
    const file = call.args[0]
    if (file === undefined) throw new CliError('Must provide exactly one positional argument to specify the config entry to write')
    const entry = parseDocument(await readText(file, context), file)
    const parsed = parseConfigEntry(entry)
    // What is wrong with its form is said here; what the cluster thinks of it, by the agent.
    if (!parsed.ok && parsed.code === 'bad-request') throw new CliError(`Failed to decode config entry input: ${parsed.text.trimEnd()}`)
    const kind = field(entry, 'kind') as string
    const label = `${kind}/${entryName(entry, kind)}`
    const written = await doing(
      `writing config entry ${label}`,
      call.client.json<boolean>('PUT', '/v1/config', { query: { cas: casOf(call.flags) }, body: entry }),
    )
    if (!written) throw new CliError(`Config entry not updated: ${label}`)
    say(context, `Config entry written: ${label}`)
  })
  withCas(command.argument('[file]', 'HCL, JSON or YAML; - for standard input'))
}

function registerDelete(config: Command, context: CliContext): void {
  interface Flags extends CasFlags {
    kind?: string
    name?: string
    filename?: string
  }
  const command = agentCommand<Flags>(config, 'delete', 'Delete a config entry', context, async call => {
    const { kind, name } = await which(call.flags, context)
    const cas = casOf(call.flags)
    const answer = await doing(
      `deleting config entry ${kind}/${name}`,
      call.client.json<unknown>('DELETE', entryPath(kind, name), { query: { cas } }),
    )
    if (answer === false) throw new CliError(`Config entry not deleted: ${kind}/${name}`)
    say(context, `Config entry deleted: ${kind}/${name}`)
  })
  withCas(command)
    .option('--kind <kind>', 'for example service-defaults')
    .option('--name <name>', 'name of the entry')
    .option('--filename <file>', 'instead of kind and name: a file that holds the entry')
}

async function which(
  flags: { kind?: string; name?: string; filename?: string },
  context: CliContext,
): Promise<{ kind: string; name: string }> {
  if (flags.filename === undefined && !flags.kind) throw new CliError('Must specify the -kind or -filename parameter')
  if (flags.filename === undefined) return kindAndName(flags)
  const entry = parseDocument(await readText(flags.filename, context), flags.filename)
  const kind = field(entry, 'kind')
  if (typeof kind !== 'string') throw new CliError(`${flags.filename} does not contain a kind/Kind key at the top level`)
  return { kind, name: entryName(entry, kind) }
}

function withCas(command: Command): Command {
  return command
    .option('--cas', 'only if the entry was last changed at --modify-index')
    .option('--modify-index <index>', 'the index for --cas; 0 means that there must be none', wholeNumber)
}

function casOf(flags: CasFlags): number | undefined {
  if (!flags.cas && flags.modifyIndex) throw new CliError('Cannot specify -modify-index without -cas')
  return flags.cas ? (flags.modifyIndex ?? 0) : undefined
}

function kindAndName(flags: { kind?: string; name?: string }): { kind: string; name: string } {
  if (!flags.kind) throw new CliError('Must specify the -kind parameter')
  if (!flags.name) throw new CliError('Must specify the -name parameter')
  return { kind: flags.kind, name: flags.name }
}

function entryPath(kind: string, name: string): string {
  return `/v1/config/${encodeURIComponent(kind)}/${encodeURIComponent(name)}`
}

/** `mesh` and `proxy-defaults` have one entry, which need not be named. */
function entryName(entry: Record<string, unknown>, kind: string): string {
  const name = field(entry, 'name')
  if (typeof name === 'string' && name !== '') return name
  return kind === 'proxy-defaults' ? 'global' : kind === 'mesh' ? 'mesh' : ''
}
