/** `isthmus kv`: the cluster's key-value store. */
import type { Command } from 'commander'
import { messageOf } from '../lib/errors.ts'
import type { AgentClient } from './client.ts'
import { agentCommand, doing, readValue, say, table, wholeNumber } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { keyPath, longFlags, type KvView } from './kv-api.ts'
import { registerKvTransfer } from './kv-transfer.ts'

interface GetFlags {
  base64?: boolean
  detailed?: boolean
  keys?: boolean
  recurse?: boolean
  separator: string
}

export function registerKv(program: Command, context: CliContext): void {
  const kv = program.command('kv').description('Read and write keys')
  registerPut(kv, context)
  registerDelete(kv, context)
  registerKvTransfer(kv, context)
  agentCommand<GetFlags>(kv, 'get', 'Show the value of a key', context, async call => {
    const { client, flags } = call
    const key = call.args[0] ?? ''
    if (key === '' && !flags.recurse && !flags.keys) throw new CliError('Error! Missing KEY argument')
    await (flags.keys ? listKeys(client, key, flags, context) : getValues(client, key, flags, context))
  })
    .argument('[key]', 'key, or prefix with --recurse or --keys')
    .option('--base64', 'print values in base64')
    .option('--detailed', 'print everything that is known of a key')
    .option('--recurse', 'print all keys with this prefix')
    .option('--keys', 'print only the names of keys with this prefix')
    .option('--separator <text>', 'with --keys: cut names after the first separator behind the prefix', '/')
}

async function listKeys(client: AgentClient, prefix: string, flags: GetFlags, context: CliContext): Promise<void> {
  const query = { keys: '', separator: flags.separator }
  const answer = await doing('querying Consul agent', client.call('GET', keyPath(prefix), { query }, [404]))
  if (answer.status === 404) return
  for (const name of client.parse(answer.body) as string[]) say(context, name)
}

async function getValues(client: AgentClient, key: string, flags: GetFlags, context: CliContext): Promise<void> {
  const query = { recurse: flags.recurse ? '' : undefined }
  const answer = await doing('querying Consul agent', client.call('GET', keyPath(key), { query }, [404]))
  const found = answer.status === 404 ? [] : (client.parse(longFlags(answer.body)) as KvView[])
  if (found.length === 0 && !flags.recurse) throw new CliError(`Error! No key exists at: ${key}`)
  const shown = (view: KvView) => {
    const bytes = Buffer.from(view.Value ?? '', 'base64')
    return flags.base64 ? bytes.toString('base64') : bytes.toString()
  }
  if (flags.detailed || flags.recurse) {
    const texts = found.map(view => (flags.detailed ? describe(view, shown(view)) : `${view.Key}:${shown(view)}`))
    if (texts.length > 0) say(context, texts.join(flags.detailed ? '\n\n' : '\n'))
    return
  }
  // Bytes as they are, for values that are no text.
  context.stdout.write(flags.base64 ? shown(found[0]!) : Buffer.from(found[0]!.Value ?? '', 'base64'))
  context.stdout.write('\n')
}

function describe(view: KvView, value: string): string {
  const rows = [
    ['CreateIndex', String(view.CreateIndex)],
    ['Flags', String(view.Flags)],
    ['Key', view.Key],
    ['LockIndex', String(view.LockIndex)],
    ['ModifyIndex', String(view.ModifyIndex)],
    ['Session', view.Session ?? '-'],
    ['Value', value],
  ]
  return table(rows, 6)
}

function registerPut(kv: Command, context: CliContext): void {
  interface Flags {
    cas?: boolean
    modifyIndex?: number
    flags?: string
    base64?: boolean
    acquire?: boolean
    release?: boolean
    session?: string
  }
  agentCommand<Flags>(kv, 'put', 'Write the value of a key', context, async call => {
    const [key, given = '', ...more] = call.args
    if (!key) throw new CliError('Error! Missing KEY argument')
    if (more.length > 0) throw new CliError(`Too many arguments (expected 1 or 2, got ${call.args.length})`)
    const { cas, modifyIndex, flags, base64, acquire, release, session } = call.flags
    if ((acquire || release) && !session) throw new CliError('Error! Missing -session (required with -acquire and -release)')
    const value = await readValue(given, context)
    const body = base64 ? Buffer.from(value.toString(), 'base64') : value
    const lock = acquire ? { acquire: session } : release ? { release: session } : { cas: cas ? (modifyIndex ?? 0) : undefined }
    const written = await call.client.json<boolean>('PUT', keyPath(key), { query: { ...lock, flags }, body }).catch((error: unknown) => {
      throw new CliError(`Error! Failed writing data: ${messageOf(error)}`, 1, { cause: error })
    })
    if (acquire || release) {
      if (!written) throw new CliError(`Error! Did not ${acquire ? 'acquire' : 'release'} lock`)
      say(context, `Success! Lock ${acquire ? 'acquired' : 'released'} on: ${key}`)
      return
    }
    if (!written) {
      const why = modifyIndex ? 'CAS failed' : 'CAS performed with index=0 and key already exists.'
      throw new CliError(`Error! Did not write to ${key}: ${why}`)
    }
    say(context, `Success! Data written to: ${key}`)
  })
    .argument('[key]')
    .argument('[value]', 'the value, @file, or - for standard input')
    .option('--cas', 'only if the key was last changed at --modify-index')
    .option('--modify-index <index>', 'the index for --cas; 0 means that there must be no such key', wholeNumber)
    .option('--flags <number>', 'a number to keep with the key')
    .option('--base64', 'the value is given in base64')
    .option('--acquire', 'lock the key for --session; it is made if there is none')
    .option('--release', 'unlock the key, which --session holds')
    .option('--session <id>', 'the session for --acquire and --release')
}

function registerDelete(kv: Command, context: CliContext): void {
  interface Flags {
    recurse?: boolean
    cas?: boolean
    modifyIndex?: number
  }
  agentCommand<Flags>(kv, 'delete', 'Delete a key, or all with a prefix', context, async call => {
    const key = call.args[0] ?? ''
    const { recurse, cas, modifyIndex } = call.flags
    if (key === '' && !recurse) throw new CliError('Error! Missing KEY argument')
    if (recurse && cas) throw new CliError('Cannot specify both -cas and -recurse!')
    if (cas && !modifyIndex) throw new CliError('Must specify -modify-index with -cas!')
    const query = { recurse: recurse ? '' : undefined, cas: cas ? modifyIndex : undefined }
    const done = await doing(`deleting ${key}`, call.client.json<boolean>('DELETE', keyPath(key), { query }))
    if (!done) throw new CliError(`Error! Did not delete key ${key}: CAS failed`)
    say(context, recurse ? `Success! Deleted keys with prefix: ${key}` : `Success! Deleted key: ${key}`)
  })
    .argument('[key]')
    .option('--recurse', 'delete all keys with this prefix')
    .option('--cas', 'only if the key was last changed at --modify-index')
    .option('--modify-index <index>', 'the index for --cas', wholeNumber)
}
