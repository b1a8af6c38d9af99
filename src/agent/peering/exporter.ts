/**
 * What one peer may know of this cluster, computed from the tables and from nothing else (spec/peering-wire.md 7). What is not
 * exported to the peer does not enter. An encoded service is kept until a revision touches what it was made of, so a health flip
 * costs one encoding however many services are exported.
 */
import { createHash } from 'node:crypto'
import { isTypical, type CheckServiceNode } from '../../mesh/service.ts'
import { externalSni } from '../../mesh/sni.ts'
import { meshGatewayId, serviceId } from '../../mesh/spiffe.ts'
import { PeeringServerAddresses, PeeringTrustBundle } from '../../wire/gen/peering.ts'
import { ExportedService, ExportedServiceList } from '../../wire/gen/peerstream.ts'
import { CheckServiceNode as WireInstance } from '../../wire/gen/service.ts'
import { sidecarSuffix } from '../../wire/peer-stream.ts'
import type { Reading, Tables } from '../catalog/tables.ts'
import type { Offer, Offered } from './offer.ts'
import { addressesToWire, flatten, nodeToWire, toWire } from './replica.ts'

export interface ExporterOptions {
  tables: Tables
  ca: { readonly trustDomain: string; roots(): Reading<{ roots: { rootCert: string }[] }> }
  datacenter: string
  /** Our own name for the peer; it is part of the SNIs by which the peer comes back (7.4). */
  peer: string
  /** Where we are dialled; undefined where the other side does not dial us. */
  serverAddresses: (() => Reading<string[]>) | undefined
}

const neverExported = 'consul'

export class Exporter {
  readonly #options: ExporterOptions
  #made = new Map<string, { from: string; offered: Offered }>()

  constructor(options: ExporterOptions) {
    this.#options = options
  }

  /** The offer of this moment, and the topics whose change makes a new one worth asking for. */
  read(): { offer: Offer; topics: string[] } {
    const topics = new Set<string>()
    const note = <T>(reading: Reading<T>): Reading<T> => {
      for (const topic of reading.topics) topics.add(topic)
      return reading
    }
    const { tables, ca, serverAddresses } = this.#options
    const kept = this.#made
    // Rebuilt on every read, so that what is no longer exported is not kept either.
    this.#made = new Map()
    const make = (id: string, from: string, encode: () => Uint8Array): Offered => {
      const before = kept.get(id)
      const made = before?.from === from ? before : { from, offered: offeredOf(encode()) }
      this.#made.set(id, made)
      return made.offered
    }
    const names = exportedNames(tables, this.#options.peer, note)
    const gateways = note(tables.gateways())
    const services = new Map<string, Offered>()
    for (const name of names) {
      const connect = note(tables.connectInstances(name))
      if (connect.value.length === 0) continue
      const protocol = note(tables.protocol(name))
      const from = `${gateways.index} ${protocol.index} ${protocol.value}`
      services.set(
        name + sidecarSuffix,
        make(`synthetic ${name}`, from, () => encodeNodes(this.#synthetic(name, protocol.value, gateways.value))),
      )
    }
    for (const name of names) {
      // A service that is really called `x-sidecar-proxy` would contradict the synthetic one; a real exporter lets it (7.2).
      if (services.has(name)) continue
      const instances = note(tables.instances(name))
      services.set(
        name,
        make(`plain ${name}`, String(instances.index), () => encodeNodes(exportable(name, instances.value).map(toWire))),
      )
    }
    const roots = note(ca.roots())
    const offer: Offer = {
      names,
      list: make('list', names.join('\n'), () => ExportedServiceList.encode({ Services: names }).finish()),
      services,
      bundle: make('bundle', String(roots.index), () => encodeBundle(ca.trustDomain, roots.value.roots)),
    }
    const addresses = serverAddresses && note(serverAddresses()).value
    if (addresses && addresses.length > 0) {
      offer.addresses = make('addresses', addresses.join('\n'), () => PeeringServerAddresses.encode({ Addresses: addresses }).finish())
    }
    return { offer, topics: [...topics] }
  }

  /** One instance for each of our mesh gateways, in their order, with their address and their health (7.4). */
  #synthetic(name: string, protocol: string, gateways: readonly CheckServiceNode[]): WireInstance[] {
    const { ca, datacenter, peer } = this.#options
    return gateways.map((gateway, i) => {
      const id = `${name}${sidecarSuffix}-instance-${i}`
      const { node, service } = gateway
      return WireInstance.fromPartial({
        Node: nodeToWire(gateway),
        Service: {
          Kind: 'connect-proxy',
          ID: id,
          Service: name + sidecarSuffix,
          Address: service.address,
          Port: service.port ?? 0,
          Weights: { Passing: service.weights.passing, Warning: service.weights.warning },
          Proxy: { DestinationServiceName: name, DestinationServiceID: `${name}-instance-${i}` },
          Connect: {
            PeerMeta: {
              SNI: [externalSni(name, peer, ca.trustDomain)],
              // The gateway's identity counts for every protocol: where it terminates, the caller sees it and not the service.
              SpiffeID: [serviceId(ca.trustDomain, datacenter, name), meshGatewayId(ca.trustDomain, datacenter)],
              Protocol: protocol,
            },
          },
          TaggedAddresses: addressesToWire(service.taggedAddresses),
          EnterpriseMeta: {},
          SocketPath: service.socketPath ?? '',
        },
        Checks: flatten(gateway.checks, node.node, id, name + sidecarSuffix),
      })
    })
  }
}

/** Sorted plain names: those given by name, registered or not, and for `*` every ordinary service there is (7.1). */
function exportedNames(tables: Tables, peer: string, note: <T>(reading: Reading<T>) => Reading<T>): string[] {
  const entry = note(tables.configEntry('exported-services', 'default')).value
  const rows = entry?.services.filter(row => row.consumers.some(consumer => consumer.peer === peer)) ?? []
  const names = new Set<string>()
  for (const { name } of rows) {
    if (name !== '*') names.add(name)
    else {
      for (const each of note(tables.services()).value.keys()) {
        if (exportable(each, note(tables.instances(each)).value).length > 0) names.add(each)
      }
    }
  }
  names.delete(neverExported)
  return [...names].toSorted()
}

/** Ordinary instances only; proxies and gateways never travel as they are (7.2). */
function exportable(name: string, instances: readonly CheckServiceNode[]): CheckServiceNode[] {
  return name.endsWith(sidecarSuffix) ? [] : instances.filter(instance => isTypical(instance.service.kind))
}

function encodeNodes(nodes: WireInstance[]): Uint8Array {
  return ExportedService.encode({ Nodes: nodes }).finish()
}

function encodeBundle(trustDomain: string, roots: { rootCert: string }[]): Uint8Array {
  return PeeringTrustBundle.encode(
    PeeringTrustBundle.fromPartial({ TrustDomain: trustDomain, RootPEMs: roots.map(root => root.rootCert) }),
  ).finish()
}

function offeredOf(value: Uint8Array): Offered {
  return { value, digest: createHash('sha256').update(value).digest('base64') }
}
