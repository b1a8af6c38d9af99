/**
 * `isthmus watch`: shows a part of what the agent knows, or runs a program with it on standard input, now and after every change. A
 * change is a change of the result, so a program is not run for nothing.
 */
import { InvalidArgumentError, type Command } from 'commander'
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { messageOf } from '../lib/errors.ts'
import { Child } from './child.ts'
import type { AgentClient } from './client.ts'
import { agentCommand, collectTexts, doing, say } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { keyPath, longFlags, unquotedFlags } from './kv-api.ts'
import { interruption } from './running.ts'

interface Flags {
  type?: string
  key?: string
  prefix?: string
  service?: string
  tag?: string[]
  passingonly?: boolean
  state?: string
  name?: string
  filter?: string
  shell: boolean
}

type Query = Record<string, string | readonly string[] | undefined>

interface View {
  path: string
  query?: Query
  /** Flags that it takes beside the filter. */
  takes: readonly (keyof Flags)[]
  /** What a program gets of an answer; undefined of a missing one. */
  shown?(answer: unknown): unknown
  /** What of an answer a program has not seen, where that is not all of it; undefined when there is nothing. */
  news?(answer: unknown, before: unknown): unknown
}

interface Pair {
  Session?: string
}

/** As Consul's client has it: a session that nobody holds is the empty text. */
const pair = (view: Pair) => ({ ...view, Session: view.Session ?? '' })

function needed(value: string | undefined, what: string): string {
  if (value === undefined) throw new CliError(`Must specify a single ${what} to watch`)
  return value
}

const views: Record<string, (flags: Flags) => View> = {
  key: flags => ({
    path: keyPath(needed(flags.key, 'key')),
    takes: ['key'],
    shown: answer => (answer as Pair[] | undefined)?.map(pair)[0],
  }),
  keyprefix: flags => ({
    path: keyPath(needed(flags.prefix, 'prefix')),
    query: { recurse: '' },
    takes: ['prefix'],
    shown: answer => (answer as Pair[] | undefined)?.map(pair),
  }),
  services: () => ({ path: '/v1/catalog/services', takes: [] }),
  nodes: () => ({ path: '/v1/catalog/nodes', takes: [] }),
  service: flags => ({
    path: `/v1/health/service/${encodeURIComponent(needed(flags.service, 'service'))}`,
    query: { tag: flags.tag, passing: flags.passingonly ? '1' : undefined },
    takes: ['service', 'tag', 'passingonly'],
  }),
  checks: flags => {
    const { service, state } = flags
    if (service !== undefined && state !== undefined) throw new CliError('Cannot specify service and state')
    const path = service === undefined ? `/v1/health/state/${state ?? 'any'}` : `/v1/health/checks/${encodeURIComponent(service)}`
    return { path, takes: ['service', 'state'] }
  },
  event: flags => ({ path: '/v1/event/list', query: { name: flags.name }, takes: ['name'], news: newEvents }),
}

function newEvents(answer: unknown, before: unknown): unknown {
  const known = new Set(((before ?? []) as { ID: string }[]).map(each => each.ID))
  const fresh = (answer as { ID: string }[]).filter(each => !known.has(each.ID))
  return fresh.length > 0 ? fresh : undefined
}

const parameters = ['key', 'prefix', 'service', 'tag', 'passingonly', 'state', 'name'] as const

function viewOf(flags: Flags): View {
  const { type } = flags
  if (type === undefined) throw new CliError('Watch type must be specified')
  if (type.startsWith('connect_') || type === 'agent_service') throw new CliError(`Type ${type} is not supported in the CLI tool`)
  const make = Object.hasOwn(views, type) ? views[type] : undefined
  if (!make) throw new CliError(`Unsupported watch type: ${type}`)
  const view = make(flags)
  const odd = parameters.filter(name => flags[name] !== undefined && !view.takes.includes(name))
  if (odd.length > 0) throw new CliError(`Invalid parameters: [${odd.join(' ')}]`)
  return view
}

export function registerWatch(program: Command, context: CliContext): void {
  agentCommand<Flags>(program, 'watch', 'Show what the agent knows, or run a program whenever it changes', context, async call => {
    const { client, flags, args } = call
    const view = viewOf(flags)
    const look = (index: string | undefined, signal?: AbortSignal) => read(client, view, { filter: flags.filter, index }, signal)
    if (args.length > 0) return follow(view, look, args, flags.shell, context)
    const { value } = await doing('querying Consul agent', look(undefined))
    say(context, unquotedFlags(JSON.stringify(value ?? null, undefined, 4)))
  })
    .argument('[child...]', 'the program and its arguments; without one what is known is printed')
    .option('--type <type>', `what to watch: ${Object.keys(views).join(', ')}`)
    .option('--key <key>', 'for key')
    .option('--prefix <prefix>', 'for keyprefix')
    .option('--service <name>', 'for service, and for checks')
    .option('--tag <tag>', 'for service: only instances with this tag; repeatable', collectTexts)
    .option('--passingonly <bool>', 'for service: only instances whose checks pass', bool)
    .option('--state <state>', 'for checks: only those in this state')
    .option('--name <name>', 'for event: only events of this name')
    .option('--filter <expression>', 'only what matches')
    .option('--shell', 'run the program with the shell (the default)', true)
    .option('--no-shell', 'run it without one')
}

function bool(text: string): boolean {
  if (text !== 'true' && text !== 'false') throw new InvalidArgumentError('write true or false.')
  return text === 'true'
}

/** Below the time after which a client takes a silent agent for dead. */
const wait = '45s'
const firstRetryMs = 1000
const maxRetryMs = 60_000

interface Seen {
  value: unknown
  index: string
}

async function read(client: AgentClient, view: View, query: Query, signal?: AbortSignal): Promise<Seen> {
  const { headers, status, body } = await client.call('GET', view.path, { query: { ...view.query, ...query, wait }, signal }, [404])
  const answer = status === 404 ? undefined : client.parse(longFlags(body))
  return { value: view.shown ? view.shown(answer) : answer, index: String(headers['x-consul-index'] ?? '') }
}

async function follow(
  view: View,
  look: (index: string | undefined, signal: AbortSignal) => Promise<Seen>,
  args: string[],
  shell: boolean,
  context: CliContext,
): Promise<void> {
  const { signal, close } = interruption()
  let index: string | undefined
  let before: Seen | undefined
  let retryMs = firstRetryMs
  try {
    for (;;) {
      const seen = await look(index, signal).catch((error: unknown) => messageOf(error))
      if (signal.aborted) return
      if (typeof seen === 'string') {
        context.stderr.write(`Watch failed, trying again in ${retryMs / 1000}s: ${seen}\n`)
        await delay(retryMs, undefined, { signal }).catch(() => undefined)
        if (signal.aborted) return
        retryMs = Math.min(retryMs * 2, maxRetryMs)
        continue
      }
      retryMs = firstRetryMs
      index = seen.index
      const same = before !== undefined && isDeepStrictEqual(before.value, seen.value)
      const news = same ? undefined : before && view.news ? view.news(seen.value, before.value) : (seen.value ?? null)
      before = seen
      if (news === undefined) continue
      await handle(unquotedFlags(JSON.stringify(news)), index, args, shell, signal, context)
      if (signal.aborted) return
    }
  } finally {
    close()
  }
}

async function handle(text: string, index: string, args: string[], shell: boolean, signal: AbortSignal, context: CliContext) {
  const child = new Child(args, { shell, env: { CONSUL_INDEX: index }, stdin: { text: `${text}\n` } }, context)
  const stop = () => void child.stop()
  signal.addEventListener('abort', stop, { once: true })
  const problem = await child.ended
  signal.removeEventListener('abort', stop)
  if (problem !== undefined && !signal.aborted) throw new CliError(`Error executing handler: ${problem}`)
}
