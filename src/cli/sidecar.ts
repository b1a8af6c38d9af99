/** `isthmus sidecar`: runs the proxy that is registered beside a service. */
import { InvalidArgumentError, type Command } from 'commander'
import { createLogger } from '../lib/log.ts'
import { parseHostPort, type HostPort } from './address.ts'
import type { AgentClient } from './client.ts'
import { agentCommand, doing, say } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { untilSignal } from './running.ts'
import { isLoopbackHost } from '../lib/address.ts'

export interface ProxyFlags {
  admin?: HostPort
  cacheDir?: string
  logLevel: string
}

interface SidecarFlags extends ProxyFlags {
  for?: string
  id?: string
}

/** The flags of both kinds of proxy. */
export function withProxyFlags(command: Command): Command {
  return command
    .option('--admin <address>', 'readiness, metrics and the plan, on this loopback host:port', parseLoopback)
    .option('--cache-dir <dir>', 'keep the last plan and the leaf with its key here (mode 0600), for a restart while the agent is down')
    .option('--log-level <level>', 'trace, debug, info, warn or err', 'info')
}

export function registerSidecar(program: Command, context: CliContext): void {
  const command = agentCommand<SidecarFlags>(
    program,
    'sidecar',
    'Run the sidecar of a registered service',
    context,
    async ({ client, flags }) => {
      const proxyId = await proxyIdOf(client, flags)
      // Loaded here, so that a command of the API does not wait for it.
      const { startSidecar } = await import('../index.ts')
      await untilSignal(async () => {
        const proxy = await startSidecar({
          proxyId,
          agent: client.endpoint,
          admin: flags.admin,
          cacheDir: flags.cacheDir,
          logger: createLogger({ level: flags.logLevel }),
        })
        sayWhenReady(context, proxy, `==> sidecar ${proxyId} is running${proxy.admin ? `, admin on port ${proxy.admin.port}` : ''}`)
        return {
          async stop() {
            await proxy.drain()
            await proxy.close()
          },
        }
      })
    },
  )
  withProxyFlags(
    command.option('--for <service-id>', 'id of the service that it stands beside').option('--id <proxy-id>', 'id of the proxy itself'),
  )
}

/** A proxy that still waits for its agent, its leaf or its port is not running; its log says what it waits for. */
export function sayWhenReady(context: CliContext, proxy: { ready(): Promise<void> }, text: string): void {
  proxy.ready().then(
    () => say(context, text),
    // It was ended before it was ready.
    () => undefined,
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

function parseLoopback(text: string): HostPort {
  const address = parseHostPort(text)
  if (!isLoopbackHost(address.host)) throw new InvalidArgumentError('the admin door is for loopback only.')
  return address
}
