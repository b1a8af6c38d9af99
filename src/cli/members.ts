/** `isthmus members`: the servers of the cluster. */
import type { Command } from 'commander'
import { agentCommand, doing, say, table } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { hostPort } from '../lib/address.ts'

interface MemberView {
  Name: string
  Addr: string
  Port: number
  Tags: Record<string, string>
  Status: number
  ProtocolCur: number
}

/** serf's states (spec/http-api.md 3). */
const states = ['none', 'alive', 'leaving', 'left', 'failed']

export function registerMembers(program: Command, context: CliContext): void {
  agentCommand<{ detailed?: boolean; wan?: boolean; status: string; filter?: string }>(
    program,
    'members',
    'List the members of the cluster',
    context,
    async call => {
      const { detailed, wan, filter } = call.flags
      const status = pattern(call.flags.status)
      const query = wan ? { wan: '1', filter } : { segment: '_all', filter }
      const all = await doing('retrieving members', call.client.json<MemberView[]>('GET', '/v1/agent/members', { query }))
      const members = all.filter(each => status.test(stateOf(each))).sort((a, b) => (a.Name < b.Name ? -1 : 1))
      if (members.length === 0) throw new CliError('No members match the given query.', 2)
      say(context, detailed ? detailedTable(members) : briefTable(members))
    },
  )
    .option('--detailed', 'show the tags')
    .option('--wan', 'members across datacenters')
    .option('--status <pattern>', 'only members whose state matches', '.*')
    .option('--filter <expression>', 'only members that match')
}

function pattern(text: string): RegExp {
  try {
    return new RegExp(text)
  } catch (error) {
    throw new CliError(`Failed to compile status regexp: ${(error as Error).message}`)
  }
}

function stateOf(member: MemberView): string {
  return states[member.Status] ?? 'none'
}

function briefTable(members: MemberView[]): string {
  const rows = members.map(member => {
    const { role, build, dc, ap, segment } = member.Tags
    return [
      member.Name,
      hostPort(member.Addr, member.Port),
      stateOf(member),
      role === 'consul' ? 'server' : role === 'node' ? 'client' : 'unknown',
      build?.split(':', 1)[0] || '< 0.3',
      String(member.ProtocolCur),
      dc ?? '',
      ap ?? 'default',
      segment || (role === 'consul' ? '<all>' : '<default>'),
    ]
  })
  return table([['Node', 'Address', 'Status', 'Type', 'Build', 'Protocol', 'DC', 'Partition', 'Segment'], ...rows])
}

function detailedTable(members: MemberView[]): string {
  const rows = members.map(member => {
    // What a server of the community edition is in, as Consul's command adds it.
    const own = { ap: 'default', ...(member.Tags['role'] === 'consul' ? { segment: '<all>' } : {}) }
    const tags = Object.entries({ ...member.Tags, ...own })
      .map(([key, value]) => `${key}=${value}`)
      .sort()
    return [member.Name, hostPort(member.Addr, member.Port), stateOf(member), tags.join(',')]
  })
  return table([['Node', 'Address', 'Status', 'Tags'], ...rows])
}
