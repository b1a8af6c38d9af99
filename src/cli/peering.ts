/** `isthmus peering`: join clusters by a token, and see how each peering stands. */
import type { Command } from 'commander'
import {
  agentCommand,
  checkFormat,
  collectPairs,
  commaSeparated,
  doing,
  readValue,
  say,
  table,
  withFormat,
  type Format,
} from './command.ts'
import { CliError, type CliContext } from './context.ts'
import type { AgentClient } from './client.ts'
import { describeFreshness, freshnessStates, type Freshness } from '../mesh/freshness.ts'

interface FreshnessView {
  State: Freshness['state']
  AgeMs: number | null
  Evidence: Freshness['evidence']
}

/** Services whose age `peering read` prints; the worst first. All of them are in --format json. */
const maxPrintedAges = 20

/** What the commands read of GET /v1/peering (spec/http-api.md 6). */
interface PeeringView {
  ID: string
  Name: string
  State: string
  DeletedAt?: string
  Meta?: Record<string, string>
  PeerID?: string
  PeerServerName?: string
  PeerCAPems?: string[] | null
  PeerServerAddresses?: string[] | null
  StreamStatus: {
    ImportedServices: string[] | null
    ExportedServices: string[] | null
    LastHeartbeat: string | null
    LastSend: string | null
    LastReceive: string | null
    Freshness?: FreshnessView & { Repairs: number }
    ImportedFreshness?: (FreshnessView & { Service: string })[] | null
  }
  CreateIndex: number
  ModifyIndex: number
  Warnings?: string[]
}

export function registerPeering(program: Command, context: CliContext): void {
  const peering = program.command('peering').description('Create and manage peerings with other clusters')
  registerGenerateToken(peering, context)
  registerEstablish(peering, context)
  withFormat(agentCommand<{ format: string }>(peering, 'list', 'List all peerings', context, list))
  withFormat(agentCommand<{ name?: string; format: string }>(peering, 'read', 'Show one peering', context, read)).option(
    '--name <name>',
    'the local name of the peer',
  )
  agentCommand<{ name?: string }>(peering, 'delete', 'Delete a peering and all that was imported through it', context, async call => {
    const name = nameOf(call.flags)
    await doing(`deleting peering for ${name}`, call.client.call('DELETE', peeringPath(name)))
    say(context, `Successfully submitted peering connection, ${name}, for deletion`)
  }).option('--name <name>', 'the local name of the peer')
}

function registerGenerateToken(peering: Command, context: CliContext): void {
  interface Flags {
    name?: string
    meta?: Record<string, string>
    serverExternalAddresses?: string[]
    format: string
  }
  const command = agentCommand<Flags>(
    peering,
    'generate-token',
    'Create the token that another cluster joins with',
    context,
    async call => {
      const { client, flags } = call
      const format = checkFormat(flags.format)
      const name = nameOf(flags)
      const body = {
        PeerName: name,
        ...(flags.meta ? { Meta: flags.meta } : {}),
        ...(flags.serverExternalAddresses ? { ServerExternalAddresses: flags.serverExternalAddresses } : {}),
      }
      const answer = await doing(
        `generating peering token for ${name}`,
        client.json<{ PeeringToken: string }>('POST', '/v1/peering/token', { body }),
      )
      say(context, format === 'json' ? JSON.stringify(answer) : answer.PeeringToken)
    },
  )
  withFormat(command)
    .option('--name <name>', 'what this cluster is to call the peer')
    .option('--meta <key=value>', 'metadata of the peering; repeatable', collectPairs)
    .option(
      '--server-external-addresses <addresses>',
      'where the peer reaches this cluster, if not at its own addresses: host:port,...',
      commaSeparated,
    )
}

function registerEstablish(peering: Command, context: CliContext): void {
  interface Flags {
    name?: string
    peeringToken?: string
    meta?: Record<string, string>
  }
  agentCommand<Flags>(peering, 'establish', 'Join another cluster with a token that it created', context, async call => {
    const { client, flags } = call
    const name = nameOf(flags)
    if (!flags.peeringToken) throw new CliError('Missing the required -peering-token flag')
    const token = (await readValue(flags.peeringToken, context)).toString().trim()
    const body = { PeerName: name, PeeringToken: token, ...(flags.meta ? { Meta: flags.meta } : {}) }
    await doing(`establishing peering for ${name}`, client.call('POST', '/v1/peering/establish', { body }))
    say(context, `Successfully established peering connection with ${name}`)
  })
    .option('--name <name>', 'what this cluster is to call the peer')
    .option('--peering-token <token>', 'the token, @file, or - to read it from standard input (arguments can be seen by others)')
    .option('--meta <key=value>', 'metadata of the peering; repeatable', collectPairs)
}

async function list({ client, flags, context }: { client: AgentClient; flags: { format: string }; context: CliContext }): Promise<void> {
  const format: Format = checkFormat(flags.format)
  const peerings = await doing('listing peerings', client.json<PeeringView[]>('GET', '/v1/peerings'))
  if (format === 'json') return say(context, JSON.stringify(peerings))
  if (peerings.length === 0) return say(context, 'There are no peering connections.')
  const rows = peerings
    .toSorted((a, b) => (a.Name < b.Name ? -1 : 1))
    .map(each => [
      each.Name,
      each.State,
      String(each.StreamStatus.ImportedServices?.length ?? 0),
      String(each.StreamStatus.ExportedServices?.length ?? 0),
      pairs(each.Meta).join(','),
      each.StreamStatus.Freshness ? freshness(each.StreamStatus.Freshness) : '',
    ])
  // The last column is isthmus's own.
  say(context, table([['Name', 'State', 'Imported Svcs', 'Exported Svcs', 'Meta', 'Freshness'], ...rows]))
}

async function read(call: { client: AgentClient; flags: { name?: string; format: string }; context: CliContext }): Promise<void> {
  const { client, flags, context } = call
  const format = checkFormat(flags.format)
  const name = nameOf(flags)
  const answer = await doing('reading peerings', client.call('GET', peeringPath(name), {}, [404]))
  if (answer.status === 404) throw new CliError(`No peering with name ${name} found.`)
  const peering = client.parse(answer.body) as PeeringView
  say(context, format === 'json' ? JSON.stringify(peering) : describe(peering))
}

/** The block of `peering read` (spec/cli.md 2). */
function describe(peering: PeeringView): string {
  const { StreamStatus: stream } = peering
  const indented = (lines: string[]) => lines.map(line => `    ${line}`)
  const meta = pairs(peering.Meta)
  const addresses = peering.PeerServerAddresses ?? []
  return [
    `Name:         ${peering.Name}`,
    `ID:           ${peering.ID}`,
    ...(peering.DeletedAt ? [`DeletedAt:    ${peering.DeletedAt}`] : []),
    `State:        ${peering.State}`,
    ...(meta.length > 0 ? ['Meta:', ...indented(meta)] : []),
    '',
    `Peer ID:               ${peering.PeerID ?? ''}`,
    `Peer Server Name:      ${peering.PeerServerName ?? ''}`,
    `Peer CA Pems:          ${peering.PeerCAPems?.length ?? 0}`,
    ...(addresses.length > 0 ? ['Peer Server Addresses:', ...indented(addresses)] : []),
    '',
    `Imported Services: ${stream.ImportedServices?.length ?? 0}`,
    `Exported Services: ${stream.ExportedServices?.length ?? 0}`,
    '',
    `Last Heartbeat:    ${date(stream.LastHeartbeat)}`,
    `Last Send:         ${date(stream.LastSend)}`,
    `Last Receive:      ${date(stream.LastReceive)}`,
    '',
    ...ages(stream),
    `Create Index: ${peering.CreateIndex}`,
    `Modify Index: ${peering.ModifyIndex}`,
    ...(peering.Warnings ? ['', 'Warnings:', ...indented(peering.Warnings)] : []),
  ].join('\n')
}

/** isthmus's own part of the block: how old what the peer exports to us may be, and by what evidence. */
function ages({ Freshness: whole, ImportedFreshness: imported }: PeeringView['StreamStatus']): string[] {
  if (!whole) return []
  const worst = (imported ?? []).toSorted(
    (a, b) =>
      freshnessStates.indexOf(b.State) - freshnessStates.indexOf(a.State) ||
      (b.AgeMs ?? Infinity) - (a.AgeMs ?? Infinity) ||
      (a.Service < b.Service ? -1 : 1),
  )
  const printed = worst.slice(0, maxPrintedAges)
  const rows = printed.length === 0 ? [] : table(printed.map(each => [each.Service, freshness(each)])).split('\n')
  const more = worst.length > printed.length ? [`and ${worst.length - printed.length} more; -format=json shows all`] : []
  return [
    `Freshness:         ${freshness(whole)}`,
    `Repairs:           ${whole.Repairs}`,
    ...[...rows, ...more].map(line => `    ${line}`),
    '',
  ]
}

function freshness({ State: state, AgeMs: ageMs, Evidence: evidence }: FreshnessView): string {
  return describeFreshness({ state, ageMs, evidence })
}

function nameOf(flags: { name?: string }): string {
  if (!flags.name) throw new CliError('Missing the required -name flag')
  return flags.name
}

function peeringPath(name: string): string {
  return `/v1/peering/${encodeURIComponent(name)}`
}

function pairs(meta: Record<string, string> | undefined): string[] {
  return Object.entries(meta ?? {})
    .map(([key, value]) => `${key}=${value}`)
    .sort()
}

/** `2026-11-22T06:24:04.5Z` as Go prints a date; there may not have been one yet. */
function date(text: string | null): string {
  if (text === null) return 'never'
  return text.endsWith('Z') ? `${text.slice(0, -1).replace('T', ' ')} +0000 UTC` : text
}
