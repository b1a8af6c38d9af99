/**
 * What one peer may know of this cluster, computed from the tables and from nothing else (spec/peering-wire.md 7). What is not
 * exported to the peer does not enter. What was encoded is kept until a revision touches what it was made of, so a health flip costs
 * the encoding of one instance, however many services are exported and however many instances this one has.
 */
import { createHash } from 'node:crypto'
import type { CheckServiceNode } from '../../mesh/service.ts'
import { externalSni } from '../../mesh/sni.ts'
import { meshGatewayId, serviceId } from '../../mesh/spiffe.ts'
import { PeeringServerAddresses, PeeringTrustBundle } from '../../wire/gen/peering.ts'
import { ExportedService, ExportedServiceList } from '../../wire/gen/peerstream.ts'
import { CheckServiceNode as WireInstance } from '../../wire/gen/service.ts'
import { sidecarSuffix } from '../../wire/peer-stream.ts'
import { passedThrough, readChain } from '../catalog/chains.ts'
import type { Changed, Reading, Tables } from '../catalog/tables.ts'
import { exportable, exportedNames } from './exported-names.ts'
import { noInstances, type Offer, type Offered } from './offer.ts'
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

/** What is known of one service as long as none of its topics moves. */
interface Row {
  topics: readonly string[]
  index: number
  /** It has ordinary instances. */
  ordinary: boolean
  /** It has a sidecar or a native instance, or a chain of its own. */
  mesh: boolean
  protocol: string
  /** Whom its callers may meet besides itself: the service that its chain passes them on to. */
  others: readonly string[]
  plain: CheckServiceNode[]
}

export class Exporter {
  readonly #options: ExporterOptions
  #rows = new Map<string, Row>()
  #made = new Map<string, { from: string; offered: Offered }>()
  /** What each part of the last reading depends on, and all of it. */
  #parts: (readonly string[])[] = []
  #topics: readonly string[] = []
  /** Each instance as it stands within its service's message: of many only what has changed is encoded anew. */
  readonly #encoded = new WeakMap<CheckServiceNode, Uint8Array>()

  constructor(options: ExporterOptions) {
    this.#options = options
  }

  /**
   * The offer of this moment, and the topics whose change makes a new one worth asking for: the same array as long as they are the
   * same. Who has waited on those of the last reading may say which of them have changed, and spares a look at all others.
   */
  read(changed?: Changed, waitedOn?: readonly string[]): { offer: Offer; topics: readonly string[] } {
    const { tables, ca, peer, serverAddresses } = this.#options
    const told = waitedOn === this.#topics ? changed : undefined
    const holds = ({ topics, index }: Row): boolean => (told ? !topics.some(topic => told.has(topic)) : tables.indexOf(topics) === index)
    const parts: (readonly string[])[] = []
    const note = <T>(reading: Reading<T>): T => {
      parts.push(reading.topics)
      return reading.value
    }
    // Rebuilt on every read, so that what is no longer exported is not kept.
    const [oldRows, oldMade] = [this.#rows, this.#made]
    this.#rows = new Map()
    this.#made = new Map()
    const row = (name: string): Row => {
      const known = this.#rows.get(name)
      if (known) return known
      const before = oldRows.get(name)
      const made = before && holds(before) ? before : this.#readRow(name)
      parts.push(made.topics)
      this.#rows.set(name, made)
      return made
    }
    const make = (id: string, from: string, encode: () => Uint8Array): Offered => {
      const before = oldMade.get(id)
      const made = before?.from === from ? before : { from, offered: offeredOf(encode()) }
      this.#made.set(id, made)
      return made.offered
    }
    const names = exportedNames(tables, peer, note, name => row(name).ordinary)
    const gatewayReading = tables.gateways()
    const gateways = note(gatewayReading)
    const sharedIds = sharedIdsOf([...names.map(name => row(name).plain), gateways])
    /** Those among them that these instances have. */
    const sharedBy = (instances: readonly CheckServiceNode[]) =>
      sharedIds.size === 0 ? '' : instances.flatMap(({ node }) => (sharedIds.has(node.id) ? node.id : [])).join()
    const services = new Map<string, Offered>()
    for (const name of names) {
      const { mesh, protocol, others } = row(name)
      const encode = () => encodeNodes(this.#synthetic(name, row(name), gateways, sharedIds))
      const version = [gatewayReading.index, protocol, sharedBy(gateways), ...others].join(' ')
      // Said also where there is none: that one went while no stream was up the list does not tell, for the plain name is on it.
      services.set(name + sidecarSuffix, mesh ? make(`synthetic ${name}`, version, encode) : noInstances)
    }
    // A service that is really called `x-sidecar-proxy` would contradict the synthetic one; a real exporter lets it (7.2).
    for (const name of names) {
      if (services.has(name)) continue
      const { plain, index } = row(name)
      const encode = () => Buffer.concat(plain.map(each => this.#encode(each, sharedIds)))
      services.set(name, make(`plain ${name}`, `${index} ${sharedBy(plain)}`, encode))
    }
    const rootReading = ca.roots()
    const { roots } = note(rootReading)
    const offer: Offer = {
      names,
      list: make('list', names.join('\n'), () => ExportedServiceList.encode({ Services: names }).finish()),
      services,
      bundle: make('bundle', String(rootReading.index), () => encodeBundle(ca.trustDomain, roots)),
    }
    const addresses = serverAddresses && note(serverAddresses())
    if (addresses && addresses.length > 0) {
      offer.addresses = make('addresses', addresses.join('\n'), () => PeeringServerAddresses.encode({ Addresses: addresses }).finish())
    }
    if (!isSame(parts, this.#parts)) this.#topics = [...new Set(parts.flat())]
    this.#parts = parts
    return { offer, topics: this.#topics }
  }

  #readRow(name: string): Row {
    const { tables, datacenter, ca } = this.#options
    const instances = tables.instances(name)
    const connect = tables.connectInstances(name)
    const chain = readChain(tables, { service: name, datacenter, trustDomain: ca.trustDomain })
    const plain = exportable(name, instances.value)
    const compiled = chain.value.ok ? chain.value.chain : undefined
    const target = compiled && passedThrough(compiled)
    return {
      topics: [...new Set([...instances.topics, ...connect.topics, ...chain.topics])],
      index: Math.max(instances.index, connect.index, chain.index),
      ordinary: plain.length > 0,
      mesh: connect.value.length > 0 || (compiled !== undefined && compiled.default !== true),
      protocol: compiled?.protocol ?? 'tcp',
      others: target === undefined || target.service === name ? [] : [target.service],
      plain,
    }
  }

  /** A service's message is one field for each instance, so that those of single ones can be put together. */
  #encode(instance: CheckServiceNode, sharedIds: ReadonlySet<string>): Uint8Array {
    if (sharedIds.has(instance.node.id)) return encodeNodes([toWire(instance, sharedIds)])
    const known = this.#encoded.get(instance)
    if (known) return known
    const made = encodeNodes([toWire(instance, sharedIds)])
    this.#encoded.set(instance, made)
    return made
  }

  /** One instance for each of our mesh gateways, in their order, with their address and their health (7.4). */
  #synthetic(
    name: string,
    { protocol, others }: Row,
    gateways: readonly CheckServiceNode[],
    sharedIds: ReadonlySet<string>,
  ): WireInstance[] {
    const { ca, datacenter, peer } = this.#options
    return gateways.map((gateway, i) => {
      const id = `${name}${sidecarSuffix}-instance-${i}`
      const { node, service } = gateway
      return WireInstance.fromPartial({
        Node: nodeToWire(gateway, sharedIds),
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
              SpiffeID: [
                serviceId(ca.trustDomain, datacenter, name),
                meshGatewayId(ca.trustDomain, datacenter),
                ...others.map(other => serviceId(ca.trustDomain, datacenter, other)),
              ],
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

/** Ids that more than one of the nodes has that the peer is told of. */
function sharedIdsOf(sets: readonly (readonly CheckServiceNode[])[]): Set<string> {
  const owners = new Map<string, string>()
  const shared = new Set<string>()
  for (const instances of sets) {
    for (const { node } of instances) {
      if (node.id === '') continue
      const owner = owners.get(node.id) ?? node.node
      owners.set(node.id, owner)
      if (owner !== node.node) shared.add(node.id)
    }
  }
  return shared
}

function isSame(a: readonly (readonly string[])[], b: readonly (readonly string[])[]): boolean {
  return a.length === b.length && a.every((topics, i) => topics === b[i] || isSameList(topics, b[i]!))
}

function isSameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((topic, i) => topic === b[i])
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
