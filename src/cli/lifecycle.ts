/** `isthmus reload`, `leave` and `maint`: what an operator tells a running agent. */
import type { Command } from 'commander'
import { agentCommand, doing, say } from './command.ts'
import { CliError, type CliContext } from './context.ts'

export function registerLifecycle(program: Command, context: CliContext): void {
  agentCommand(program, 'reload', 'Have the agent read its configuration again', context, async call => {
    await doing('reloading', call.client.call('PUT', '/v1/agent/reload'))
    say(context, 'Configuration reload triggered')
  })
  agentCommand(program, 'leave', 'Have the agent end gracefully', context, async call => {
    await doing('leaving', call.client.call('PUT', '/v1/agent/leave'))
    say(context, 'Graceful leave complete')
  })
  registerMaint(program, context)
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
