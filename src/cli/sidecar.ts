/** `isthmus sidecar`: runs the proxy that is registered beside a service. */
import type { Command } from 'commander'
import type { AgentClient } from './client.ts'
import { agentCommand, doing } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { runProxy, withProxyFlags, type ProxyFlags } from './proxy-process.ts'

interface SidecarFlags extends ProxyFlags {
  for?: string
  id?: string
}

export function registerSidecar(program: Command, context: CliContext): void {
  const command = agentCommand<SidecarFlags>(
    program,
    'sidecar',
    'Run the sidecar of a registered service',
    context,
    async ({ client, flags }) => {
      const proxyId = await proxyIdOf(client, flags)
      await runProxy(context, flags, {
        name: `sidecar ${proxyId}`,
        async start(sockets, admin, logger) {
          // Loaded here, so that a command of the API does not wait for it.
          const { startSidecar } = await import('../proxy/sidecar.ts')
          return startSidecar({ proxyId, agent: client.endpoint, admin, cacheDir: flags.cacheDir, sockets, logger })
        },
      })
    },
  )
  withProxyFlags(
    command.option('--for <service-id>', 'id of the service that it stands beside').option('--id <proxy-id>', 'id of the proxy itself'),
  )
}

interface ServiceView {
  Kind?: string
  ID: string
  Proxy?: { DestinationServiceID?: string }
}

/** Exactly one of the two flags; with --for the one proxy that names the service (spec/cli.md, `connect envoy -sidecar-for`). */
async function proxyIdOf(client: AgentClient, flags: SidecarFlags): Promise<string> {
  if ((flags.for === undefined) === (flags.id === undefined)) throw new CliError('give either --for SERVICE_ID or --id PROXY_ID')
  if (flags.id !== undefined) return flags.id
  const services = await doing(
    'retrieving the services of the agent',
    client.json<Record<string, ServiceView>>('GET', '/v1/agent/services'),
  )
  const found = Object.values(services).filter(each => each.Kind === 'connect-proxy' && each.Proxy?.DestinationServiceID === flags.for)
  if (found.length === 1) return found[0]!.ID
  throw new CliError(
    found.length === 0
      ? `No sidecar proxy registered for ${flags.for}; register the service with "connect": {"sidecar_service": {}} first`
      : `More than one sidecar proxy registered for ${flags.for}: choose one with --id (${found.map(each => each.ID).join(', ')})`,
  )
}
