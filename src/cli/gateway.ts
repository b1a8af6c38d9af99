/** `isthmus gateway`: registers a mesh gateway and runs it; takes the registration back when it ends in order. */
import type { Command } from 'commander'
import { hostPort } from '../lib/address.ts'
import { checkListenable, parseHostPort, type HostPort } from './address.ts'
import { agentCommand, doing } from './command.ts'
import type { CliContext } from './context.ts'
import { runProxy, withProxyFlags, type ProxyFlags } from './proxy-process.ts'

interface GatewayFlags extends ProxyFlags {
  address: HostPort
  wanAddress?: HostPort
  name: string
  lanOnWan?: boolean
}

export function registerGateway(program: Command, context: CliContext): void {
  const command = agentCommand<GatewayFlags>(program, 'gateway', 'Register and run a mesh gateway', context, async ({ client, flags }) => {
    const { name, address, wanAddress } = flags
    const lan = { Address: address.host, Port: address.port }
    const registration = {
      Kind: 'mesh-gateway',
      ID: name,
      Name: name,
      ...lan,
      TaggedAddresses: { lan, wan: wanAddress ? { Address: wanAddress.host, Port: wanAddress.port } : lan },
      // What others are told of its health; a gateway that vanished without a word is forgotten after a while.
      Check: {
        Name: 'Mesh Gateway Listening',
        TCP: hostPort(address.host, address.port),
        Interval: '2s',
        Timeout: '1s',
        DeregisterCriticalServiceAfter: '6h',
      },
    }
    await runProxy(context, flags, {
      name: `gateway ${name} on ${hostPort(address.host, address.port)}`,
      async begin(inherited) {
        // Before the registration: a second gateway of this name would take the first one's and, when it ends, take it away.
        if (!inherited.has('gateway lan')) await checkListenable(address, '--address')
        await doing(`registering ${name}`, client.call('PUT', '/v1/agent/service/register', { body: registration }))
      },
      async finish() {
        // First out of the catalogs, ours and the peers', then the tunnels.
        await client.call('PUT', `/v1/agent/service/deregister/${encodeURIComponent(name)}`, {}, [404]).catch(() => undefined)
      },
      async start(sockets, admin, logger) {
        // Loaded here, so that a command of the API does not wait for it.
        const { startGateway } = await import('../proxy/mesh-gateway.ts')
        const { cacheDir, lanOnWan = false } = flags
        return startGateway({ proxyId: name, agent: client.endpoint, admin, cacheDir, sockets, logger, lanOnWan })
      },
    })
  })
  withProxyFlags(
    command
      .requiredOption('--address <host:port>', 'where it listens, for its own cluster', parseHostPort)
      .option('--wan-address <host:port>', 'what peers dial; --address unless told', parseHostPort)
      .option('--name <name>', 'service name and id', 'mesh-gateway')
      .option('--lan-on-wan', 'serve internal and imported names on the WAN address too'),
  )
}
