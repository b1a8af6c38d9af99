/** `isthmus reload`, `leave`, `join`, `force-leave`, `monitor` and `maint`: what an operator tells a running agent, and hears of it. */
import type { Command } from 'commander'
import { agentCommand, doing, say } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { messageOf } from '../lib/errors.ts'
import { interruption } from './running.ts'

export function registerLifecycle(program: Command, context: CliContext): void {
  agentCommand(program, 'reload', 'Have the agent read its configuration again', context, async call => {
    await doing('reloading', call.client.call('PUT', '/v1/agent/reload'))
    say(context, 'Configuration reload triggered')
  })
  agentCommand(program, 'leave', 'Have the agent end gracefully', context, async call => {
    await doing('leaving', call.client.call('PUT', '/v1/agent/leave'))
    say(context, 'Graceful leave complete')
  })
  registerMembership(program, context)
  registerMonitor(program, context)
  registerMaint(program, context)
}

/** Consul's; a cluster of one agent knows nobody else, and the agent says so. */
function registerMembership(program: Command, context: CliContext): void {
  agentCommand<{ wan?: boolean }>(
    program,
    'join',
    'Have the agent join another (it knows none but itself; see peering)',
    context,
    async call => {
      if (call.args.length === 0) throw new CliError('At least one address to join must be specified.')
      const query = { wan: call.flags.wan ? '1' : undefined }
      let joined = 0
      for (const address of call.args) {
        try {
          await doing(`joining address '${address}'`, call.client.call('PUT', `/v1/agent/join/${encodeURIComponent(address)}`, { query }))
          joined += 1
        } catch (error) {
          context.stderr.write(`${messageOf(error)}\n`)
        }
      }
      if (joined === 0) throw new CliError('Failed to join any nodes.')
      say(context, `Successfully joined cluster by contacting ${joined} nodes.`)
    },
  )
    .argument('[addresses...]')
    .option('--wan', 'as a server of another datacenter')
  agentCommand<{ prune?: boolean; wan?: boolean }>(program, 'force-leave', 'Have the agent forget a member', context, async call => {
    const [name, ...more] = call.args
    if (name === undefined || more.length > 0) throw new CliError('A single node name must be specified to force leave.')
    const query = { prune: call.flags.prune ? '1' : undefined, wan: call.flags.wan ? '1' : undefined }
    await doing('force leaving', call.client.call('PUT', `/v1/agent/force-leave/${encodeURIComponent(name)}`, { query }))
  })
    .argument('[node]')
    .option('--prune', 'take it out of the list of members')
    .option('--wan', 'only as a server of another datacenter')
}

function registerMonitor(program: Command, context: CliContext): void {
  agentCommand<{ logLevel?: string; logJson?: boolean }>(
    program,
    'monitor',
    "Show the agent's log as it is written",
    context,
    async call => {
      const { logLevel, logJson } = call.flags
      const { signal, close } = interruption()
      const query = { loglevel: logLevel, logjson: logJson ? '' : undefined }
      const stream = call.client.stream('GET', '/v1/agent/monitor', { query, signal }, chunk => void context.stdout.write(chunk))
      await doing('starting monitor', stream).finally(close)
      if (!signal.aborted) say(context, '\nRemote side ended the monitor! This usually means that the agent has ended.')
    },
  )
    .option('--log-level <level>', 'trace, debug, info, warn or err')
    .option('--log-json', 'lines of JSON')
}

interface MaintFlags {
  enable?: boolean
  disable?: boolean
  reason?: string
  service?: string
}

function registerMaint(program: Command, context: CliContext): void {
  agentCommand<MaintFlags>(program, 'maint', 'Take the node or a service out of use, and put it back', context, async call => {
    const { enable = false, disable = false, reason, service } = call.flags
    if (enable && disable) throw new CliError('Only one of -enable or -disable may be provided')
    if (!enable && reason !== undefined) throw new CliError('Reason may only be provided with -enable')
    if (!enable && !disable && service !== undefined) throw new CliError('Service requires either -enable or -disable')
    const self = await doing('querying Consul agent', call.client.json<{ Config: { NodeName: string } }>('GET', '/v1/agent/self'))
    if (!enable && !disable) {
      const checks = await doing('getting checks', call.client.json<Record<string, CheckView>>('GET', '/v1/agent/checks'))
      for (const check of Object.values(checks)) describe(check, self.Config.NodeName, context)
      return
    }
    const what = service === undefined ? 'node' : 'service'
    const path = service === undefined ? '/v1/agent/maintenance' : `/v1/agent/service/maintenance/${encodeURIComponent(service)}`
    const query = { enable: String(enable), reason: enable ? (reason ?? '') : undefined }
    await doing(`${enable ? 'enabling' : 'disabling'} ${what} maintenance`, call.client.call('PUT', path, { query }))
    const state = `maintenance is now ${enable ? 'enabled' : 'disabled'}`
    say(context, service === undefined ? `Node ${state}` : `Service ${state} for ${JSON.stringify(service)}`)
  })
    .option('--enable', 'take it out of use')
    .option('--disable', 'put it back')
    .option('--reason <text>', 'with --enable: why')
    .option('--service <id>', 'a service instead of the whole node')
}

interface CheckView {
  CheckID: string
  ServiceID: string
  Notes: string
}

function describe(check: CheckView, node: string, context: CliContext): void {
  if (check.CheckID === '_node_maintenance') say(context, `Node:\n  Name:   ${node}\n  Reason: ${check.Notes}\n`)
  else if (check.CheckID.startsWith('_service_maintenance:'))
    say(context, `Service:\n  ID:     ${check.ServiceID}\n  Reason: ${check.Notes}\n`)
}
