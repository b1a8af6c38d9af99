/** `isthmus operator usage`: how many services, instances and nodes there are. */
import type { Command } from 'commander'
import { agentCommand, doing, entriesByName, say, table } from './command.ts'
import { CliError, type CliContext } from './context.ts'

interface Usage {
  Services: number
  ServiceInstances: number
  ConnectServiceInstances: Record<string, number>
  BillableServiceInstances: number
  Nodes: number
}

interface Flags {
  connect?: boolean
  billable?: boolean
  allDatacenters?: boolean
}

export function registerUsage(operator: Command, context: CliContext): void {
  const usage = operator.command('usage').description('How much the cluster holds')
  agentCommand<Flags>(usage, 'instances', 'Show how many instances of services there are', context, async call => {
    const { connect, billable, allDatacenters } = call.flags
    if (connect && billable) throw new CliError('Cannot specify both -billable and -connect flags')
    const query = { global: allDatacenters ? '' : undefined }
    const { Usage: found } = await doing(
      'fetching usage information',
      call.client.json<{ Usage: Record<string, Usage> }>('GET', '/v1/operator/usage', { query }),
    )
    const all = entriesByName(found)
    const parts: string[] = []
    if (!connect) parts.push(billed(all, allDatacenters === true), counted(all))
    if (!billable) parts.push(meshed(all, allDatacenters === true))
    say(context, parts.join('\n\n\n'))
  })
    .option('--all-datacenters', 'name the datacenter in every row')
    .option('--billable', 'only ordinary services')
    .option('--connect', 'only services of the mesh')
}

type Rows = [string, Usage][]

/** As Consul prints these tables. */
function spaced(rows: (string | number)[][]): string {
  return table(
    rows.map(row => row.map(String)),
    6,
  )
}

const sum = (all: Rows, count: (usage: Usage) => number) => all.reduce((total, [, usage]) => total + count(usage), 0)

function billed(all: Rows, named: boolean): string {
  const total = sum(all, each => each.BillableServiceInstances)
  const lines = all.map(([name, each]) => `${name} Billable Service Instances: ${each.BillableServiceInstances}`)
  const rows = all.map(([name, each]) => [...(named ? [name] : []), each.Services, each.BillableServiceInstances])
  const head = [...(named ? ['Datacenter'] : []), 'Services', 'Service instances']
  const foot = named ? [[], ['Total', sum(all, each => each.Services), total]] : []
  return [`Billable Service Instances Total: ${total}`, ...lines, '', 'Billable Services', spaced([head, ...rows, ...foot])].join('\n')
}

function counted(all: Rows): string {
  const rows = all.map(([name, each]) => [name, each.Nodes])
  return `Nodes\n${spaced([['Datacenter', 'Count'], ...rows, [], ['Total', sum(all, each => each.Nodes)]])}`
}

function meshed(all: Rows, named: boolean): string {
  const rows = all.flatMap(([name, each]) =>
    entriesByName(each.ConnectServiceInstances).map(([kind, count]) => [...(named ? [name] : []), kind, count]),
  )
  const total = sum(all, each => Object.values(each.ConnectServiceInstances).reduce((a, b) => a + b, 0))
  return `Connect Services\n${spaced([[...(named ? ['Datacenter'] : []), 'Type', 'Service instances'], ...rows, ...(named ? [[], ['Total', '', total]] : [])])}`
}
