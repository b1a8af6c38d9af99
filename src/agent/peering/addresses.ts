/** Where this cluster's peering servers are dialled, and through which gateways it dials others (spec/peering-wire.md 1.1, 6.1, 11). */
import { lanAddress, wanAddress, type CheckServiceNode, type ServiceAddress } from '../../mesh/service.ts'
import type { Reading, Tables } from '../catalog/tables.ts'
import { hostPort } from '../../lib/address.ts'

/** As many as a dialer of ours takes. */
const maxServers = 64

/** True while the operator wants peering traffic to pass the mesh gateways. */
function throughGateways(tables: Tables): Reading<boolean> {
  const entry = tables.configEntry('mesh', 'mesh')
  return { ...entry, value: entry.value?.peering?.peerThroughMeshGateways === true }
}

/** Our own: every server's, or the WAN addresses of the gateways; empty when there should be gateways and none is registered. */
export function serverAddresses(tables: Tables, own: () => string[]): Reading<string[]> & { throughGateways: boolean } {
  const flag = throughGateways(tables)
  if (!flag.value) {
    const servers = tables.instances('consul')
    return {
      value: [...new Set([...own(), ...servers.value.flatMap(grpcAddress)])].slice(0, maxServers),
      index: Math.max(flag.index, servers.index),
      topics: [...flag.topics, ...servers.topics],
      throughGateways: false,
    }
  }
  const gateways = tables.gateways()
  return {
    value: unique(gateways.value.map(wanAddress)).slice(0, maxServers),
    index: Math.max(flag.index, gateways.index),
    topics: [...flag.topics, ...gateways.topics],
    throughGateways: true,
  }
}

/** Where another server of this cluster takes peering streams: its node's WAN address, the port in the meta of its instance (1.1). */
function grpcAddress({ node, service }: CheckServiceNode): string[] {
  const port = Number(service.meta?.['grpc_tls_port'] || service.meta?.['grpc_port'])
  return Number.isInteger(port) && port >= 1 && port <= 65_535 ? [hostPort(node.taggedAddresses?.['wan'] || node.address, port)] : []
}

/** LAN addresses of our own gateways, which a dialer tries first when peering passes them. */
export function localGatewayAddresses(tables: Tables): string[] {
  return throughGateways(tables).value ? unique(tables.gateways().value.map(lanAddress)) : []
}

function unique(addresses: ServiceAddress[]): string[] {
  return [...new Set(addresses.map(({ address, port }) => hostPort(address, port)))]
}
