/** `isthmus operator`: the servers of the cluster, of which there is one, and how much it holds. */
import type { Command } from 'commander'
import { agentCommand, doing, durationText, entriesByName, say, table, wholeNumber } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { registerUsage } from './usage.ts'

export function registerOperator(program: Command, context: CliContext): void {
  const operator = program.command('operator').description("Look at the cluster's servers, and at how much they hold")
  registerRaft(operator, context)
  registerAutopilot(operator, context)
  registerUsage(operator, context)
}

interface ServerView {
  ID: string
  Node: string
  Address: string
  Leader: boolean
  ProtocolVersion: string
  Voter: boolean
  LastIndex: number
}

function registerRaft(operator: Command, context: CliContext): void {
  const raft = operator.command('raft').description('The servers: this version has one for each cluster')
  agentCommand(raft, 'list-peers', 'List the servers', context, async call => {
    const { Servers: servers } = await doing(
      'getting peers',
      call.client.json<{ Servers: ServerView[] }>('GET', '/v1/operator/raft/configuration'),
    )
    const last = servers.find(each => each.Leader)?.LastIndex ?? 0
    const rows = servers.map(each => {
      const state = each.Leader ? 'leader' : 'follower'
      const trails = each.Leader ? '-' : `${last - each.LastIndex} commits`
      return [each.Node, each.ID, each.Address, state, String(each.Voter), each.ProtocolVersion, String(each.LastIndex), trails]
    })
    say(context, table([['Node', 'ID', 'Address', 'State', 'Voter', 'RaftProtocol', 'Commit Index', 'Trails Leader By'], ...rows]))
  })
  agentCommand<{ address?: string; id?: string }>(raft, 'remove-peer', 'Remove a server', context, async call => {
    const { address, id } = call.flags
    if (!address && !id) throw new CliError('Error removing peer: an address or id is required for the peer to remove')
    if (address && id) throw new CliError('Error removing peer: cannot give both an address and id')
    await doing('removing peer', call.client.call('DELETE', '/v1/operator/raft/peer', { query: { address, id } }))
    say(context, `Removed peer with ${address ? `address ${JSON.stringify(address)}` : `id ${JSON.stringify(id)}`}`)
  })
    .option('--address <address:port>', 'its address')
    .option('--id <id>', 'its id')
  agentCommand<{ id?: string }>(raft, 'transfer-leader', 'Have another server lead', context, async call => {
    const query = { id: call.flags.id }
    await doing('transferring leadership', call.client.call('POST', '/v1/operator/raft/transfer-leader', { query }))
    say(context, 'Success')
  }).option('--id <id>', 'the server that is to lead')
}

interface Settings {
  CleanupDeadServers: boolean
  LastContactThreshold: string
  MaxTrailingLogs: number
  MinQuorum: number
  ServerStabilizationTime: string
  RedundancyZoneTag: string
  DisableUpgradeMigration: boolean
  UpgradeVersionTag: string
}

const configuration = '/v1/operator/autopilot/configuration'

function registerAutopilot(operator: Command, context: CliContext): void {
  const autopilot = operator.command('autopilot').description("Consul's settings for many servers, kept for its tools")
  agentCommand(autopilot, 'get-config', 'Show the settings', context, async call => {
    const found = await doing('querying Autopilot configuration', call.client.json<Settings>('GET', configuration))
    const shown: Settings = {
      CleanupDeadServers: found.CleanupDeadServers,
      LastContactThreshold: found.LastContactThreshold,
      MaxTrailingLogs: found.MaxTrailingLogs,
      MinQuorum: found.MinQuorum,
      ServerStabilizationTime: found.ServerStabilizationTime,
      RedundancyZoneTag: found.RedundancyZoneTag,
      DisableUpgradeMigration: found.DisableUpgradeMigration,
      UpgradeVersionTag: found.UpgradeVersionTag,
    }
    for (const [name, value] of Object.entries(shown))
      say(context, `${name} = ${name.endsWith('Tag') ? JSON.stringify(value) : String(value)}`)
  })
  const changes: [flag: string, key: keyof Settings, what: string, read?: (text: string) => unknown][] = [
    ['last-contact-threshold <duration>', 'LastContactThreshold', 'how long a server may be silent', durationText],
    ['max-trailing-logs <number>', 'MaxTrailingLogs', 'how far a server may lag', wholeNumber],
    ['min-quorum <number>', 'MinQuorum', 'how many servers stay at least', wholeNumber],
    ['server-stabilization-time <duration>', 'ServerStabilizationTime', 'how long a new server is watched first', durationText],
    ['redundancy-zone-tag <tag>', 'RedundancyZoneTag', 'metadata that names the zone of a server'],
    ['upgrade-version-tag <tag>', 'UpgradeVersionTag', 'metadata that names the version of a server'],
  ]
  const set = agentCommand<Record<string, unknown>>(autopilot, 'set-config', 'Change settings', context, async call => {
    const {
      CreateIndex: _created,
      ModifyIndex: index,
      ...before
    } = await doing(
      'querying Autopilot configuration',
      call.client.json<Settings & { CreateIndex: number; ModifyIndex: number }>('GET', configuration),
    )
    const given = [...changes.map(([, key]) => key), 'CleanupDeadServers', 'DisableUpgradeMigration'].map(
      key => [key, call.flags[key.charAt(0).toLowerCase() + key.slice(1)]] as const,
    )
    const body = { ...before, ...Object.fromEntries(given.filter(([, value]) => value !== undefined)) }
    const written = await doing(
      'setting Autopilot configuration',
      call.client.json<boolean>('PUT', configuration, { query: { cas: index }, body }),
    )
    if (!written) throw new CliError('Configuration could not be atomically updated, please try again')
    say(context, 'Configuration updated!')
  })
  for (const [flag, , what, read] of changes) {
    if (read) set.option(`--${flag}`, what, read)
    else set.option(`--${flag}`, what)
  }
  for (const flag of ['cleanup-dead-servers', 'disable-upgrade-migration']) {
    set.option(`--${flag}`, `whether to ${flag.replaceAll('-', ' ')}`).option(`--no-${flag}`, 'the other way round')
  }
  registerState(autopilot, context)
}

interface StateView {
  Healthy: boolean
  FailureTolerance: number
  OptimisticFailureTolerance: number
  Leader: string
  Voters: string[]
  Servers: Record<string, MemberView>
}

interface MemberView {
  Name: string
  Address: string
  Version: string
  Status: string
  NodeType: string
  NodeStatus: string
  Healthy: boolean
  LastContact: string
  LastTerm: number
  LastIndex: number
  Meta: Record<string, string>
}

function registerState(autopilot: Command, context: CliContext): void {
  agentCommand<{ format: string }>(autopilot, 'state', 'Show the health of the servers', context, async call => {
    const { format } = call.flags
    if (format !== 'pretty' && format !== 'json') throw new CliError(`Unknown format: ${format}`)
    const state = await doing('querying Autopilot state', call.client.json<StateView>('GET', '/v1/operator/autopilot/state'))
    say(context, format === 'json' ? JSON.stringify(state, undefined, 4) : describe(state))
  }).option('--format <format>', 'pretty or json', 'pretty')
}

function describe(state: StateView): string {
  const servers = entriesByName(state.Servers)
  return [
    `Healthy:                      ${state.Healthy}`,
    `Failure Tolerance:            ${state.FailureTolerance}`,
    `Optimistic Failure Tolerance: ${state.OptimisticFailureTolerance}`,
    `Leader:                       ${state.Leader}`,
    'Voters:',
    ...state.Voters.map(id => `   ${id}`),
    'Servers:',
    ...servers.flatMap(([id, server]) => [`   ${id}`, ...describeServer(server)]),
    '',
  ].join('\n')
}

function describeServer(server: MemberView): string[] {
  const rows: [string, unknown][] = [
    ['Name', server.Name],
    ['Address', server.Address],
    ['Version', server.Version],
    ['Status', server.Status],
    ['Node Type', server.NodeType],
    ['Node Status', server.NodeStatus],
    ['Healthy', server.Healthy],
    ['Last Contact', server.LastContact],
    ['Last Term', server.LastTerm],
    ['Last Index', server.LastIndex],
  ]
  const meta = entriesByName(server.Meta)
  return [
    ...rows.map(([name, value]) => `      ${`${name}:`.padEnd(16)} ${String(value)}`),
    ...(meta.length > 0 ? ['      Meta', ...meta.map(([key, value]) => `         ${JSON.stringify(key)}: ${JSON.stringify(value)}`)] : []),
  ]
}
