/** The config entries of an agent, as decisions are made of them, with what else of the cluster counts. */
import { EntrySet, readEntry } from '../mesh/entry-set.ts'
import type { ConfigEntry } from '../mesh/config-entry.ts'
import type { OutcomeContext } from '../mesh/outcome.ts'
import type { AgentClient } from './client.ts'
import { doing } from './command.ts'
import { CliError } from './context.ts'

const kinds = [
  'service-intentions',
  'service-router',
  'service-splitter',
  'service-resolver',
  'service-defaults',
  'proxy-defaults',
  'exported-services',
  'jwt-provider',
] as const

export interface AgentEntries {
  entries: EntrySet
  context: OutcomeContext
  /** Names in the catalog. */
  services: string[]
}

export async function agentEntries(client: AgentClient): Promise<AgentEntries> {
  const read = <T>(path: string) => doing('reading the entries of the agent', client.json<T>('GET', path))
  const self = await doing('reading the entries of the agent', client.call('GET', '/v1/agent/self'))
  const lists = await Promise.all(kinds.map(kind => read<Record<string, unknown>[]>(`/v1/config/${kind}`)))
  const entries = lists.flat().map((each, i) => entryOf(each, `entry ${i} of the agent`))
  const { Config } = client.parse(self.body) as { Config: { Datacenter: string } }
  const defaultAction = self.headers['x-consul-default-acl-policy'] === 'allow' ? 'allow' : 'deny'
  const services = Object.keys(await read<Record<string, string[]>>('/v1/catalog/services')).filter(
    each => !each.endsWith('-sidecar-proxy'),
  )
  return { entries: new EntrySet(entries), context: { datacenter: Config.Datacenter, defaultAction }, services }
}

/** An entry as somebody wrote it. `where` is for the complaint. */
export function entryOf(input: unknown, where: string): ConfigEntry {
  const read = readEntry(input)
  if (!read.ok) throw new CliError(`${where}: ${read.problem.trim()}`)
  return read.entry
}
