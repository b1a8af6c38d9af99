/** `isthmus intention`: who may call whom, inside the cluster. Rules for callers of a peer are config entries. */
import type { Command } from 'commander'
import { agentCommand, collectPairs, doing, entriesByName, say, table } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { registerIntentionTest } from './intention-test.ts'

interface IntentionView {
  ID?: string
  SourceName: string
  SourcePeer?: string
  DestinationName: string
  Action?: string
  Permissions?: unknown[] | null
  Precedence: number
  Description?: string
  Meta?: Record<string, string> | null
  CreatedAt?: string
}

const base = '/v1/connect/intentions'

export function registerIntention(program: Command, context: CliContext): void {
  const intention = program.command('intention').description('Allow and deny calls between services')
  registerCreate(intention, context)
  registerReaders(intention, context)
  agentCommand(intention, 'check', 'Say whether a call would be allowed: exit code 0 if so, else 1', context, async call => {
    const { source, destination } = namesOf(call.args)
    const query = { source, destination, 'source-type': 'consul' }
    const answer = await doing('checking the connection', call.client.json<{ Allowed: boolean }>('GET', `${base}/check`, { query }))
    if (answer.Allowed) return say(context, 'Allowed')
    say(context, 'Denied')
    throw new CliError('')
  }).arguments('[source] [destination]')
  agentCommand(intention, 'delete', 'Delete an intention', context, async call => {
    const { source, destination } = namesOf(call.args)
    await doing('deleting the intention', call.client.call('DELETE', `${base}/exact`, { query: { source, destination } }))
    say(context, 'Intention deleted.')
  }).arguments('[source] [destination]')
  registerIntentionTest(intention, context)
}

function registerCreate(intention: Command, context: CliContext): void {
  interface Flags {
    allow?: boolean
    deny?: boolean
    replace?: boolean
    meta?: Record<string, string>
  }
  agentCommand<Flags>(intention, 'create', 'Create an intention', context, async call => {
    const { allow, deny, replace, meta } = call.flags
    if (allow && deny) throw new CliError('Only one of -allow or -deny may be specified.')
    const { source, destination } = namesOf(call.args)
    const Action = deny ? 'deny' : 'allow'
    const shown = `${source} => ${destination} (${Action})`
    if (replace) {
      const body = { Action, ...(meta ? { Meta: meta } : {}) }
      await doing(`replacing intention "${shown}"`, call.client.call('PUT', `${base}/exact`, { query: { source, destination }, body }))
      return
    }
    const body = { SourceName: source, DestinationName: destination, SourceType: 'consul', Action, ...(meta ? { Meta: meta } : {}) }
    await doing(`creating intention "${shown}"`, call.client.call('POST', base, { body }))
    say(context, `Created: ${shown}`)
  })
    .arguments('[source] [destination]')
    .option('--allow', 'allow the call (the default)')
    .option('--deny', 'deny the call')
    .option('--replace', 'replace the intention if there is one')
    .option('--meta <key=value>', 'metadata; repeatable', collectPairs)
}

function registerReaders(intention: Command, context: CliContext): void {
  agentCommand(intention, 'list', 'List all intentions', context, async call => {
    const all = await doing('listing intentions', call.client.json<IntentionView[]>('GET', base))
    if (all.length === 0) return say(context, 'There are no intentions.')
    const rows = all.map(each => [each.ID ?? '', sourceOf(each), actionOf(each), each.DestinationName, String(each.Precedence)])
    return say(context, table([['ID', 'Source', 'Action', 'Destination', 'Precedence'], ...rows]))
  })
  agentCommand(intention, 'get', 'Show an intention', context, async call => {
    const { source, destination } = namesOf(call.args, true)
    const answer = await doing('reading the intention', call.client.call('GET', `${base}/exact`, { query: { source, destination } }, [404]))
    if (answer.status === 404) {
      throw new CliError(`Intention not found with source ${JSON.stringify(source)} and destination ${JSON.stringify(destination)}`)
    }
    say(context, describe(call.client.parse(answer.body) as IntentionView))
  }).arguments('[source] [destination]')
  agentCommand<{ source?: boolean }>(intention, 'match', 'Show the intentions that decide about a service', context, async call => {
    const [name, ...more] = call.args
    if (name === undefined || more.length > 0) throw new CliError('Error: command requires exactly one argument: src or dst')
    const query = { by: call.flags.source ? 'source' : 'destination', name }
    const found = await doing(
      'matching the connection',
      call.client.json<Record<string, IntentionView[]>>('GET', `${base}/match`, { query }),
    )
    for (const each of found[name] ?? []) say(context, `${sourceOf(each)} => ${each.DestinationName} (${actionOf(each)})`)
  })
    .arguments('[name]')
    .option('--source', 'take the name as that of the caller')
    .option('--destination', 'take the name as that of the called (the default)')
}

/** Two names. A peer's service can be read by name, yet never written by one: that is a config entry. */
function namesOf(args: string[], mayBePeer = false): { source: string; destination: string } {
  const [source, destination, ...more] = args
  if (source === undefined || destination === undefined || more.length > 0) {
    throw new CliError('Error: command requires exactly two arguments: source and destination')
  }
  const peer = /^peer:([^/]+)\/(.+)$/.exec(source)
  if (!mayBePeer && source.startsWith('peer:')) {
    const entry = {
      Kind: 'service-intentions',
      Name: destination,
      Sources: [{ Name: peer?.[2] ?? 'NAME', Peer: peer?.[1] ?? 'PEER', Action: 'allow' }],
    }
    throw new CliError(
      `${source} is a service of a peer; intentions for peers are written as a config entry, for example:\n  echo '${JSON.stringify(entry)}' | isthmus config write -`,
    )
  }
  return { source, destination }
}

function sourceOf(intention: IntentionView): string {
  return intention.SourcePeer ? `peer:${intention.SourcePeer}/${intention.SourceName}` : intention.SourceName
}

/** Intentions with permissions decide for each request, and have no action of their own. */
function actionOf(intention: IntentionView): string {
  const count = intention.Permissions?.length ?? 0
  return intention.Action || `${count} permission${count === 1 ? '' : 's'}`
}

/** As Go prints a time for people: `Thursday, 26-Nov-26 03:09:29 UTC`. */
function rfc850(text: string): string {
  // `Thu, 26 Nov 2026 03:09:29 GMT`
  const [, day = '', month = '', year = '', time = ''] = new Date(text).toUTCString().split(' ')
  const weekday = new Date(text).toLocaleDateString('en-US', { weekday: 'long', timeZone: 'UTC' })
  return `${weekday}, ${day}-${month}-${year.slice(2)} ${time} UTC`
}

function describe(intention: IntentionView): string {
  const meta = entriesByName(intention.Meta ?? {})
  const rows = [
    ['Source:', sourceOf(intention)],
    ['Destination:', intention.DestinationName],
    ...(intention.Action ? [['Action:', intention.Action]] : []),
    ['ID:', intention.ID ?? ''],
    ...(intention.Description ? [['Description:', intention.Description]] : []),
    ...meta.map(([key, value]) => [`Meta[${key}]:`, value]),
    ...(intention.CreatedAt ? [['Created At:', rfc850(intention.CreatedAt)]] : []),
  ]
  if (!intention.Permissions?.length) return table(rows)
  return `${table(rows)}\nPermissions:\n${JSON.stringify(intention.Permissions, undefined, 2)}`
}
