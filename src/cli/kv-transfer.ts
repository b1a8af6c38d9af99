/** `isthmus kv export` and `kv import`: a tree of keys as Consul's JSON, in which flags are exact and values are base64. */
import type { Command } from 'commander'
import { posix } from 'node:path'
import { agentCommand, doing, readValue, say } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { keyPath, longFlags, type KvView } from './kv-api.ts'

interface Entry {
  key: string
  flags: number | string
  value: string
}

export function registerKvTransfer(kv: Command, context: CliContext): void {
  agentCommand(kv, 'export', 'Print a tree of keys as JSON', context, async call => {
    const prefix = call.args[0] ?? ''
    const query = { recurse: '' }
    const answer = await doing('querying Consul agent', call.client.call('GET', keyPath(prefix), { query }, [404]))
    const found = answer.status === 404 ? [] : (call.client.parse(longFlags(answer.body)) as KvView[])
    const entries = found.map(({ Key: key, Flags: flags, Value: value }): Entry => ({ key, flags, value: value ?? '' }))
    // Long numbers came in quotes; a key or a value cannot look like this line, because its quotes are escaped.
    say(context, JSON.stringify(entries, undefined, '\t').replace(/^(\t\t"flags": )"(\d+)"/gm, '$1$2'))
  }).argument('[prefix]', 'all keys unless told')

  agentCommand<{ prefix?: string }>(kv, 'import', 'Write a tree of keys that was exported', context, async call => {
    const [given, ...more] = call.args
    if (given === undefined) throw new CliError('Error! Missing DATA argument')
    if (more.length > 0) throw new CliError(`Too many arguments (expected 1, got ${call.args.length})`)
    for (const { key, flags, value } of entriesOf(await readValue(given, context))) {
      const name = call.flags.prefix === undefined ? key : posix.join(call.flags.prefix, key)
      const body = Buffer.from(value, 'base64')
      const written = await doing(`writing to ${name}`, call.client.json<boolean>('PUT', keyPath(name), { query: { flags }, body }))
      if (!written) throw new CliError(`Error! Did not write to ${name}`)
      say(context, `Imported: ${name}`)
    }
  })
    .argument('[data]', 'JSON, @file, or - for standard input')
    .option('--prefix <prefix>', 'put in front of every key')
}

/** Everything is looked at before anything is written. */
function entriesOf(bytes: Buffer): Entry[] {
  let value: unknown
  try {
    value = JSON.parse(bytes.toString().replace(/("flags":\s*)(\d{16,})/g, '$1"$2"'))
  } catch (error) {
    throw new CliError(`Cannot unmarshal data: ${(error as Error).message}`, 1, { cause: error })
  }
  if (!Array.isArray(value)) throw new CliError('Cannot unmarshal data: it is no list of {"key", "flags", "value"}')
  return value.map((each: unknown, i) => {
    const { key, flags = 0, value: text = '' } = (each ?? {}) as Partial<Entry>
    if (typeof key !== 'string' || key === '') throw new CliError(`Cannot unmarshal data: entry ${i} has no key`)
    if (!/^\d{1,20}$/.test(String(flags))) throw new CliError(`Cannot unmarshal data: the flags of ${key} are no whole number`)
    if (typeof text !== 'string' || !/^[A-Za-z0-9+/\s]*={0,2}\s*$/.test(text)) {
      throw new CliError(`Error base 64 decoding value for key ${key}`)
    }
    return { key, flags, value: text }
  })
}
