/** `isthmus services`: what the local agent runs beside, and what peers may use of it. */
import type { Command } from 'commander'
import { decode, encode } from '../lib/shape.ts'
import { ServiceDefinition } from '../mesh/service.ts'
import type { AgentClient } from './client.ts'
import { agentCommand, collectPairs, collectTexts, commaSeparated, doing, readText, say, wholeNumber } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { field, parseDocument } from './document.ts'

type Definition = Record<string, unknown>

interface RegisterFlags {
  id?: string
  name?: string
  kind?: string
  port?: number
  address?: string
  socket?: string
  tag?: string[]
  meta?: Record<string, string>
  taggedAddress?: Record<string, string>
}

export function registerServices(program: Command, context: CliContext): void {
  const services = program.command('services').description('Register services with the agent, and export them to peers')
  registerRegister(services, context)
  agentCommand<{ id?: string }>(services, 'deregister', 'Deregister services from the agent', context, async call => {
    const { client, flags, args } = call
    if (flags.id === undefined && args.length === 0) throw new CliError('Service deregistration requires at least one argument or -id.')
    const ids = flags.id === undefined ? (await definitionsOf(args, context)).map(idOf) : [flags.id]
    for (const id of ids) {
      await doing(
        `deregistering service ${JSON.stringify(id)}`,
        client.call('PUT', `/v1/agent/service/deregister/${encodeURIComponent(id)}`),
      )
      say(context, `Deregistered service: ${id}`)
    }
  })
    .argument('[files...]', 'files with the definitions; - for standard input')
    .option('--id <id>', 'ID of the service')
  registerExport(services, context)
}

function registerRegister(services: Command, context: CliContext): void {
  agentCommand<RegisterFlags>(services, 'register', 'Register services with the agent', context, async call => {
    const { client, flags, args } = call
    if (args.length === 0 && flags.name === undefined) throw new CliError('Service registration requires at least one argument or flags.')
    if (args.length > 0 && flags.name !== undefined) throw new CliError('give either files or flags, not both')
    const definitions = args.length > 0 ? await definitionsOf(args, context) : [fromFlags(flags)]
    for (const definition of definitions) {
      const name = textOf(definition, 'name')
      await doing(`registering service ${JSON.stringify(name)}`, client.call('PUT', '/v1/agent/service/register', { body: definition }))
      say(context, `Registered service: ${name}`)
    }
  })
    .argument('[files...]', 'HCL, JSON or YAML with "service" or "services"; - for standard input')
    .option('--name <name>', 'name of the service')
    .option('--id <id>', 'ID; the name unless told')
    .option('--kind <kind>', 'kind; none for an ordinary service')
    .option('--port <port>', 'port', wholeNumber)
    .option('--address <address>', 'address; that of the node unless told')
    .option('--socket <path>', 'unix socket instead of an address and a port')
    .option('--tag <tag>', 'tag; repeatable', collectTexts)
    .option('--meta <key=value>', 'metadata; repeatable', collectPairs)
    .option('--tagged-address <name=address:port>', 'tagged address; repeatable', collectPairs)
}

function fromFlags(flags: RegisterFlags): Definition {
  const tagged = Object.entries(flags.taggedAddress ?? {}).map(([name, text]) => {
    const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(text)
    if (!match) throw new CliError(`-tagged-address ${name}=${text}: write it as name=address:port`)
    return [name, { Address: match[1] ?? match[2], Port: Number(match[3]) }]
  })
  const all: Definition = {
    ID: flags.id,
    Name: flags.name,
    Kind: flags.kind,
    Port: flags.port,
    Address: flags.address,
    SocketPath: flags.socket,
    Tags: flags.tag,
    Meta: flags.meta,
    TaggedAddresses: tagged.length > 0 ? Object.fromEntries(tagged) : undefined,
  }
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))
}

/** Files in the form of the agent's configuration: `service: {}` or `services: []`. */
async function definitionsOf(files: string[], context: CliContext): Promise<Definition[]> {
  const found: Definition[] = []
  for (const file of files) {
    const document = parseDocument(await readText(file, context), file)
    const one = field(document, 'service')
    const many = field(document, 'services')
    // A block that stands alone is a map, several are a list.
    const here = [one, many].flat().filter(each => each !== undefined)
    if (here.length === 0 || here.some(each => typeof each !== 'object' || each === null)) {
      throw new CliError(`${file} holds no services; put each definition under "service", or several in a list under "services"`)
    }
    found.push(...here.map(each => withLists(each as Definition)))
  }
  return found
}

/** HCL cannot tell a list of one block from a block; the agent's API can. What it does not know stays, for the agent to name. */
function withLists(definition: Definition): Definition {
  const decoded = decode(ServiceDefinition, definition, { blocks: true })
  return decoded.ok ? (encode(ServiceDefinition, decoded.value) as Definition) : definition
}

function textOf(definition: Definition, key: string): string {
  const value = field(definition, key)
  return typeof value === 'string' ? value : ''
}

function idOf(definition: Definition): string {
  return textOf(definition, 'id') || textOf(definition, 'name')
}

interface ExportedEntry {
  Kind: string
  Name: string
  Services?: { Name: string; Consumers?: { Peer?: string; Partition?: string }[] }[]
  ModifyIndex?: number
}

function registerExport(services: Command, context: CliContext): void {
  agentCommand<{ name?: string; consumerPeers?: string[] }>(services, 'export', 'Let peers use a service', context, async call => {
    const { name, consumerPeers: peers } = call.flags
    if (!name) throw new CliError('Missing the required -name flag')
    if (!peers || peers.length === 0) throw new CliError('Missing the required -consumer-peers or -consumer-partitions flag')
    const shown = JSON.stringify(peers.join(','))
    await doing(`exporting service ${JSON.stringify(name)} to cluster peers ${shown}`, exportService(call.client, name, peers))
    say(context, `Successfully exported service ${JSON.stringify(name)} to cluster peers ${shown}`)
  })
    .option('--name <name>', 'name of the service')
    .option('--consumer-peers <peers>', 'local names of the peers: a,b', commaSeparated)
}

/** Merges into exported-services/default, which others may be writing too. */
async function exportService(client: AgentClient, name: string, peers: string[]): Promise<void> {
  const path = '/v1/config/exported-services/default'
  const answer = await client.call('GET', path, {}, [404])
  const entry: ExportedEntry =
    answer.status === 404 ? { Kind: 'exported-services', Name: 'default' } : (client.parse(answer.body) as ExportedEntry)
  const others = (entry.Services ?? []).filter(each => each.Name !== name)
  const own = (entry.Services ?? []).find(each => each.Name === name)?.Consumers ?? []
  const added = [...new Set(peers)].filter(peer => !own.some(each => each.Peer === peer)).map(peer => ({ Peer: peer }))
  const body = { Kind: entry.Kind, Name: entry.Name, Services: [...others, { Name: name, Consumers: [...own, ...added] }] }
  const written = await client.json<boolean>('PUT', '/v1/config', { query: { cas: entry.ModifyIndex ?? 0 }, body })
  if (!written) throw new CliError('config entry was changed while attempting to update; run the command again')
}
