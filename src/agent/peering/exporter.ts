/**
 * What one peer may know of this cluster, computed from the tables and from nothing else (spec/peering-wire.md 7). What is not
 * exported to the peer does not enter. What was encoded is kept until a revision touches what it was made of, so a health flip costs
 * a look at one service and the encoding of one instance, however many services are exported and however many instances this one has.
 */
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
import { encodeSet, type EncodedSet } from './encoded-set.ts'
import { noInstances, type Offer, type Offered } from './offer.ts'
import { addressesToWire, flatten, nodeToWire, toWire } from './replica.ts'
import { SharedNodeIds } from './shared-node-ids.ts'

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
  name: string
  topics: readonly string[]
  index: number
  /** It has ordinary instances. */
  ordinary: boolean
  /** It has a sidecar or a native instance, or a chain of its own. */
  mesh: boolean
  protocol: string
  /** Whom its callers may meet besides itself: the service that its chain passes them on to. */
  others: readonly string[]
  plain: readonly CheckServiceNode[]
}

/** The last reading of who reads again, and which of the topics that he waited on have changed since. */
export interface Since {
  changed: Changed
  waitedOn: readonly string[]
  offer: Offer
}

/** Something encoded, and everything that it was made of. */
interface Made {
  from: readonly unknown[]
  offered: Offered
}

export class Exporter {
  readonly #options: ExporterOptions
  /** Of every name that may be exported. */
  #rows = new Map<string, Row>()
  #exported: ReadonlySet<string> = new Set()
  #services = new Map<string, Offered>()
  #offer: Offer | undefined
  #made = new Map<string, Made>()
  #gateways: Reading<readonly CheckServiceNode[]> = { value: [], index: 0, topics: [] }
  readonly #shared = new SharedNodeIds()
  /** How often an id became shared, or ceased to be. */
  #sharings = 0
  /** What each part of the last reading depends on, and all of it. */
  #parts: (readonly string[])[] = []
  #topics: readonly string[] = []
  /** By topic on which nothing but rows depends. */
  #rowsOf = new Map<string, string[]>()
  /** By name. */
  readonly #sets = new Map<string, EncodedSet & { sharings: number }>()
  /** Each instance as it stands within its service's message: of many only what has changed is encoded anew. */
  readonly #encoded = new WeakMap<CheckServiceNode, Uint8Array>()

  constructor(options: ExporterOptions) {
    this.#options = options
  }

  /**
   * The offer of this moment, and the topics whose change makes a new one worth asking for: the same array as long as they are the
   * same. Who has waited on those of the last reading may say which of them have changed, and spares a look at all others: where no
   * name comes or goes, the services of the last offer are brought up to date in place, and those that are others now are named.
   */
  read(since?: Since): { offer: Offer; topics: readonly string[] } {
    const told = since && since.waitedOn === this.#topics && since.offer === this.#offer ? since.changed : undefined
    this.#offer = (told && this.#amend(told)) ?? this.#readAll(told)
    return { offer: this.#offer, topics: this.#topics }
  }

  /** Undefined where more than single rows has changed. */
  #amend(told: ReadonlySet<string>): Offer | undefined {
    const names = new Set<string>()
    for (const topic of told) {
      const known = this.#rowsOf.get(topic)
      if (!known) return undefined
      for (const name of known) names.add(name)
    }
    const rows = Array.from(names, name => this.#readRow(name, this.#rows.get(name)))
    for (const row of rows) {
      const before = this.#rows.get(row.name)!
      if (before.ordinary !== row.ordinary || !isSameList(before.topics, row.topics)) return undefined
    }
    let flipped = false
    for (const row of rows) if (this.#keep(row)) flipped = true
    if (flipped) return undefined
    const changed: string[] = []
    const put = (id: string, offered: Offered): void => {
      if (this.#services.get(id) === offered) return
      this.#services.set(id, offered)
      changed.push(id)
    }
    for (const row of rows) {
      // What is not exported may have a row too.
      if (!this.#exported.has(row.name)) continue
      put(row.name + sidecarSuffix, this.#virtual(row, this.#made))
      if (!this.#isVirtual(row.name)) put(row.name, this.#plain(row, this.#made))
    }
    return { ...this.#offer!, changed }
  }

  /** Puts a row in place of the one before; answers whether what other rows were made of is something else now. */
  #keep(row: Row): boolean {
    const before = this.#rows.get(row.name)
    this.#rows.set(row.name, row)
    return this.#count(before?.plain ?? [], row.plain)
  }

  #count(before: readonly CheckServiceNode[], after: readonly CheckServiceNode[]): boolean {
    const flipped = this.#shared.replace(before, after)
    if (flipped) this.#sharings += 1
    return flipped
  }

  #readAll(told: ReadonlySet<string> | undefined): Offer {
    const { tables, ca, peer, serverAddresses } = this.#options
    const holds = ({ topics, index }: Row): boolean => (told ? !topics.some(topic => told.has(topic)) : tables.indexOf(topics) === index)
    const shape: (readonly string[])[] = []
    const note = <T>(reading: Reading<T>): T => {
      shape.push(reading.topics)
      return reading.value
    }
    const asked = new Set<string>()
    const row = (name: string): Row => {
      const before = this.#rows.get(name)
      if (before && (asked.has(name) || holds(before))) {
        asked.add(name)
        return before
      }
      asked.add(name)
      const made = this.#readRow(name, before)
      this.#keep(made)
      return made
    }
    const names = exportedNames(tables, peer, note, name => row(name).ordinary)
    const rows = names.map(row)
    this.#exported = new Set(names)
    for (const [name, { plain }] of this.#rows) {
      if (asked.has(name)) continue
      this.#rows.delete(name)
      this.#sets.delete(name)
      this.#count(plain, [])
    }
    const gateways = tables.gateways()
    this.#count(this.#gateways.value, note(gateways))
    this.#gateways = gateways
    // Made anew, so that what is no longer exported is not kept.
    const made = new Map<string, Made>()
    this.#services = new Map()
    for (const each of rows) this.#services.set(each.name + sidecarSuffix, this.#virtual(each, made))
    for (const each of rows) if (!this.#isVirtual(each.name)) this.#services.set(each.name, this.#plain(each, made))
    const rootReading = ca.roots()
    const { roots } = note(rootReading)
    const offer: Offer = {
      names,
      list: this.#make(made, 'list', [names.join('\n')], () => ExportedServiceList.encode({ Services: names }).finish()),
      services: this.#services,
      bundle: this.#make(made, 'bundle', [rootReading.index], () => encodeBundle(ca.trustDomain, roots)),
    }
    const addresses = serverAddresses && note(serverAddresses())
    if (addresses && addresses.length > 0) {
      offer.addresses = this.#make(made, 'addresses', addresses, () => PeeringServerAddresses.encode({ Addresses: addresses }).finish())
    }
    this.#made = made
    this.#dependOn(shape)
    return offer
  }

  #dependOn(shape: (readonly string[])[]): void {
    const parts = [...shape, ...Array.from(this.#rows.values(), row => row.topics)]
    if (isSame(parts, this.#parts)) return
    this.#parts = parts
    this.#topics = [...new Set(parts.flat())]
    this.#rowsOf = new Map()
    for (const { name, topics } of this.#rows.values()) {
      for (const topic of topics) {
        const names = this.#rowsOf.get(topic)
        if (names) names.push(name)
        else this.#rowsOf.set(topic, [name])
      }
    }
    for (const topics of shape) for (const topic of topics) this.#rowsOf.delete(topic)
  }

  /** As it was, where it is made of the same. */
  #make(into: Map<string, Made>, id: string, from: readonly unknown[], encode: () => Uint8Array): Offered {
    const before = this.#made.get(id)
    if (before && isSameList(before.from, from)) {
      into.set(id, before)
      return before.offered
    }
    const value = encode()
    const offered = before && Buffer.compare(before.offered.value, value) === 0 ? before.offered : { value }
    into.set(id, { from, offered })
    return offered
  }

  /** Said also where there is none: that one went while no stream was up the list does not tell, for the plain name is on it. */
  #virtual(row: Row, into: Map<string, Made>): Offered {
    const { name, mesh, protocol, others } = row
    if (!mesh) return noInstances
    const from = [this.#gateways.index, this.#sharings, protocol, ...others]
    return this.#make(into, `virtual ${name}`, from, () => encodeNodes(this.#synthetic(row)))
  }

  #plain({ name, plain }: Row, into: Map<string, Made>): Offered {
    return this.#make(into, `plain ${name}`, [plain, this.#sharings], () => {
      const before = this.#sets.get(name)
      const set = encodeSet(before?.sharings === this.#sharings ? before : undefined, plain, each => this.#encode(each))
      this.#sets.set(name, { ...set, sharings: this.#sharings })
      return set.value
    })
  }

  /** A service that is really called `x-sidecar-proxy` would contradict the synthetic one; a real exporter lets it (7.2). */
  #isVirtual(name: string): boolean {
    return name.endsWith(sidecarSuffix) && this.#exported.has(name.slice(0, -sidecarSuffix.length))
  }

  #readRow(name: string, before: Row | undefined): Row {
    const { tables, datacenter, ca } = this.#options
    const instances = tables.instances(name)
    const connect = tables.connectInstances(name)
    const chain = readChain(tables, { service: name, datacenter, trustDomain: ca.trustDomain })
    const found = exportable(name, instances.value)
    const plain = before && isSameList(before.plain, found) ? before.plain : found
    const compiled = chain.value.ok ? chain.value.chain : undefined
    const target = compiled && passedThrough(compiled)
    return {
      name,
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
  #encode(instance: CheckServiceNode): Uint8Array {
    const sharedIds = this.#shared.ids
    if (sharedIds.has(instance.node.id)) return encodeNodes([toWire(instance, sharedIds)])
    const known = this.#encoded.get(instance)
    if (known) return known
    const made = encodeNodes([toWire(instance, sharedIds)])
    this.#encoded.set(instance, made)
    return made
  }

  /** One instance for each of our mesh gateways, in their order, with their address and their health (7.4). */
  #synthetic({ name, protocol, others }: Row): WireInstance[] {
    const { ca, datacenter, peer } = this.#options
    return this.#gateways.value.map((gateway, i) => {
      const id = `${name}${sidecarSuffix}-instance-${i}`
      const { node, service } = gateway
      return WireInstance.fromPartial({
        Node: nodeToWire(gateway, this.#shared.ids),
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

function isSame(a: readonly (readonly string[])[], b: readonly (readonly string[])[]): boolean {
  return a.length === b.length && a.every((topics, i) => topics === b[i] || isSameList(topics, b[i]!))
}

function isSameList(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((each, i) => each === b[i])
}

function encodeNodes(nodes: WireInstance[]): Uint8Array {
  return ExportedService.encode({ Nodes: nodes }).finish()
}

function encodeBundle(trustDomain: string, roots: { rootCert: string }[]): Uint8Array {
  return PeeringTrustBundle.encode(
    PeeringTrustBundle.fromPartial({ TrustDomain: trustDomain, RootPEMs: roots.map(root => root.rootCert) }),
  ).finish()
}
