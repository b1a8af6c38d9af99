/**
 * `isthmus snapshot`: everything that a cluster knows as one file, and back. What was saved is checked before the command says so; the
 * file holds the keys of the CA, so it is readable by its owner alone.
 */
import type { Command } from 'commander'
import { writeFileSync } from 'node:fs'
import { messageOf } from '../lib/errors.ts'
import { agentCommand, checkFormat, doing, say, table, withFormat } from './command.ts'
import { readFile } from './client.ts'
import { CliError, type CliContext } from './context.ts'

interface Meta {
  ID: string
  Size: number
  Index: number
  Term: number
  Version: number
}

export function registerSnapshot(program: Command, context: CliContext): void {
  const snapshot = program.command('snapshot').description('Save and restore everything that the cluster knows')
  agentCommand(snapshot, 'save', 'Save it to a file', context, async call => {
    const file = fileOf(call.args)
    const { body } = await doing('saving snapshot', call.client.call('GET', '/v1/snapshot'))
    const { meta } = await doing('verifying snapshot', opened(body))
    try {
      writeFileSync(file, body, { mode: 0o600 })
    } catch (error) {
      throw new CliError(`Error writing snapshot file: ${messageOf(error)}`, 1, { cause: error })
    }
    say(context, `Saved and verified snapshot to index ${meta.Index}`)
  }).argument('[file]')
  agentCommand(snapshot, 'restore', 'Put what a file holds in the place of everything', context, async call => {
    const body = readFile(fileOf(call.args))
    await doing('restoring snapshot', call.client.call('PUT', '/v1/snapshot', { body }))
    say(context, 'Restored snapshot')
  }).argument('[file]')
  withFormat(snapshot.command('inspect').description('Show what a file holds').argument('[file]')).action(
    async (file: string | undefined, flags: { format: string }) => inspect(fileOf(file === undefined ? [] : [file]), flags.format, context),
  )
}

async function inspect(file: string, format: string, context: CliContext): Promise<void> {
  const shape = checkFormat(format)
  const { meta, state } = await doing('reading snapshot', opened(readFile(file)))
  const { ID, Size, Index, Term, Version } = meta
  const stats = countsOf(state)
  const total = stats.reduce((sum, each) => sum + each.Sum, 0)
  if (shape === 'json') {
    say(context, JSON.stringify({ Meta: { ID, Size, Index, Term, Version }, Stats: stats, TotalSize: total }, undefined, 3))
    return
  }
  const rows = Object.entries({ ID, Size, Index, Term, Version }).map(([key, value]) => [` ${key}`, String(value)])
  const line = [' ----', '----', '----']
  const counted = stats.map(each => [` ${each.Name}`, String(each.Count), String(each.Sum)])
  say(context, `${table(rows)}\n\n${table([[' Type', 'Count', 'Size'], line, ...counted, line, [' Total', '', String(total)]])}`)
}

/** Loaded when it is needed, so that other commands do not wait for it. */
async function opened(archive: Buffer): Promise<{ meta: Meta; state: Buffer }> {
  const { unpack } = await import('../agent/catalog/archive.ts')
  const { meta, state } = await unpack(archive)
  return { meta: JSON.parse(meta.toString()) as Meta, state }
}

interface Stat {
  Name: string
  Sum: number
  Count: number
}

/** How many records of each kind, largest first; bytes are those of keys and values. A line is a record, the first says the format. */
function countsOf(state: Buffer): Stat[] {
  const stats = new Map<string, Stat>()
  const [first = '', ...lines] = state.toString().split('\n')
  if (!first.startsWith('{"format":"isthmus-state"')) throw new CliError('Error extracting snapshot data: it was not saved by isthmus')
  for (const line of lines) {
    if (line === '') continue
    const { key, value } = JSON.parse(line) as { key: string; value: string }
    const name = key.split('/', 1)[0]!
    const stat = stats.get(name) ?? { Name: name, Sum: 0, Count: 0 }
    stats.set(name, { Name: name, Sum: stat.Sum + Buffer.byteLength(key) + Buffer.byteLength(value, 'base64'), Count: stat.Count + 1 })
  }
  return [...stats.values()].sort((a, b) => b.Sum - a.Sum || (a.Name < b.Name ? -1 : 1))
}

function fileOf(args: string[]): string {
  const [file, ...more] = args
  if (file === undefined) throw new CliError('Missing FILE argument')
  if (more.length > 0) throw new CliError(`Too many arguments (expected 1, got ${args.length})`)
  return file
}
