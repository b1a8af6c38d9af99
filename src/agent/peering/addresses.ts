/** Where this cluster's peering servers are dialled, and through which gateways it dials others (spec/peering-wire.md 1.1, 6.1, 11). */
import { lanAddress, wanAddress, type ServiceAddress } from '../../mesh/service.ts'
import type { Reading, Tables } from '../catalog/tables.ts'
import { hostPort } from '../../lib/address.ts'

/** True while the operator wants peering traffic to pass the mesh gateways. */
function throughGateways(tables: Tables): Reading<boolean> {
  const entry = tables.configEntry('mesh', 'mesh')
  return { ...entry, value: entry.value?.peering?.peerThroughMeshGateways === true }
}

/** Our own: the servers', or the WAN addresses of the gateways; empty when there should be gateways and none is registered. */
export function serverAddresses(tables: Tables, own: () => string[]): Reading<string[]> & { throughGateways: boolean } {
  const flag = throughGateways(tables)
  if (!flag.value) return { ...flag, value: own(), throughGateways: false }
  const gateways = tables.gateways()
  return {
    value: unique(gateways.value.map(wanAddress)),
    index: Math.max(flag.index, gateways.index),
    topics: [...flag.topics, ...gateways.topics],
    throughGateways: true,
  }
}

/** LAN addresses of our own gateways, which a dialer tries first when peering passes them. */
export function localGatewayAddresses(tables: Tables): string[] {
  return throughGateways(tables).value ? unique(tables.gateways().value.map(lanAddress)) : []
}

function unique(addresses: ServiceAddress[]): string[] {
  return [...new Set(addresses.map(({ address, port }) => hostPort(address, port)))]
}
