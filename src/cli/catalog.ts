/** `isthmus catalog`: what the cluster knows of nodes and services. */
import type { Command } from 'commander'
import { agentCommand, collectPairs, doing, say, table } from './command.ts'
import type { CliContext } from './context.ts'

interface NodeView {
  ID: string
  Node: string
  Address: string
  Datacenter: string
  TaggedAddresses?: Record<string, string> | null
  Meta?: Record<string, string> | null
  /** Present where the node was found through one of its services. */
  NodeMeta?: Record<string, string> | null
}

interface NodeFlags {
  detailed?: boolean
  service?: string
  filter?: string
  near?: string
  nodeMeta?: Record<string, string>
}

export function registerCatalog(program: Command, context: CliContext): void {
  const catalog = program.command('catalog').description('Look into the catalog')
  agentCommand(catalog, 'datacenters', 'List the datacenters', context, async call => {
    const names = await doing('listing datacenters', call.client.json<string[]>('GET', '/v1/catalog/datacenters'))
    for (const name of names) say(context, name)
  })
  registerNodes(catalog, context)
  registerServices(catalog, context)
}

function registerNodes(catalog: Command, context: CliContext): void {
  agentCommand<NodeFlags>(catalog, 'nodes', 'List the nodes', context, async call => {
    const { service, filter, detailed, near } = call.flags
    const path = service ? `/v1/catalog/service/${encodeURIComponent(service)}` : '/v1/catalog/nodes'
    const query = {
      filter: [filter, ...metaFilters(call.flags, service ? 'NodeMeta' : 'Meta')].filter(Boolean).join(' and ') || undefined,
      near,
    }
    const found = await doing('listing nodes', call.client.json<NodeView[]>('GET', path, { query }))
    if (found.length === 0) return say(context, 'No nodes match the given query - try expanding your search.')
    const nodes = [...new Map(found.map(node => [node.Node, node])).values()].sort((a, b) => (a.Node < b.Node ? -1 : 1))
    const brief = nodes.map(node => [node.Node, detailed ? node.ID : node.ID.slice(0, 8), node.Address, node.Datacenter])
    if (!detailed) return say(context, table([['Node', 'ID', 'Address', 'DC'], ...brief]))
    const rows = brief.map((row, i) => [...row, pairs(nodes[i]!.TaggedAddresses), pairs(nodes[i]!.NodeMeta ?? nodes[i]!.Meta)])
    return say(context, table([['Node', 'ID', 'Address', 'DC', 'TaggedAddresses', 'Meta'], ...rows]))
  })
    .option('--detailed', 'whole IDs, tagged addresses and metadata')
    .option('--near <node>', 'sorted by the time to this node, or to "_agent"')
    .option('--service <name>', 'only nodes with an instance of this service')
    .option('--node-meta <key=value>', 'only nodes with this metadata; repeatable', collectPairs)
    .option('--filter <expression>', 'only nodes that match')
}

function registerServices(catalog: Command, context: CliContext): void {
  agentCommand<{ tags?: boolean; node?: string; nodeMeta?: Record<string, string> }>(
    catalog,
    'services',
    'List the services',
    context,
    async call => {
      const { tags, node } = call.flags
      const query = { filter: metaFilters(call.flags, 'NodeMeta').join(' and ') || undefined }
      const found = node
        ? await doing('listing services', servicesOfNode(call.client.json('GET', `/v1/catalog/node/${encodeURIComponent(node)}`)))
        : await doing('listing services', call.client.json<Record<string, string[]>>('GET', '/v1/catalog/services', { query }))
      const names = Object.keys(found).sort()
      if (names.length === 0) return say(context, 'No services match the given query - try expanding your search.')
      return say(context, tags ? table(names.map(name => [name, found[name]!.toSorted().join(',')])) : names.join('\n'))
    },
  )
    .option('--tags', 'show the tags, too')
    .option('--node <name>', 'only services of this node')
    .option('--node-meta <key=value>', 'only services on nodes with this metadata; repeatable', collectPairs)
}

interface NodeServicesView {
  Services: Record<string, { Service: string; Tags: string[] | null }>
}

async function servicesOfNode(answer: Promise<NodeServicesView | null>): Promise<Record<string, string[]>> {
  const tags = new Map<string, Set<string>>()
  for (const { Service: name, Tags } of Object.values((await answer)?.Services ?? {})) {
    tags.set(name, new Set([...(tags.get(name) ?? []), ...(Tags ?? [])]))
  }
  return Object.fromEntries([...tags].map(([name, set]) => [name, [...set]]))
}

function metaFilters(flags: { nodeMeta?: Record<string, string> }, field: string): string[] {
  return Object.entries(flags.nodeMeta ?? {}).map(([key, value]) => `${field}[${JSON.stringify(key)}] == ${JSON.stringify(value)}`)
}

function pairs(map: Record<string, string> | null | undefined): string {
  return Object.entries(map ?? {})
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(', ')
}
