/**
 * What the catalog says to a form: instances that may be used, nodes, virtual addresses and reverse names, each with the topics that
 * it was read from. Critical instances never leave here, and a peer's are found only under that peer's name.
 */
import { LRUCache } from 'lru-cache'
import { isIP } from 'node:net'
import { aggregateStatus } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import type { CheckServiceNode } from '../../mesh/service.ts'
import { addressBytes, addressText } from '../../lib/address-bytes.ts'
import type { Tables } from '../catalog/tables.ts'
import type { Form } from './question.ts'

export interface Instance {
  instance: CheckServiceNode
  /** SRV weight: by the state of the checks that count for the instance. */
  weight: number
}

/** What a prepared query says when it is executed. */
export interface QueryResult {
  /** The service that it ended at. */
  service: string
  /** Usable ones, in the order in which they are to be tried. */
  nodes: readonly CheckServiceNode[]
  /** Where they are: our datacenter, or a peer. */
  datacenter: string
  peerName: string
  /** The query's own DNS.TTL as it is written; empty without one. */
  ttl: string
}

export interface LookupOptions {
  tables: Tables
  /** Executes the prepared query of this name or id; undefined when there is none. */
  query: (nameOrId: string) => QueryResult | undefined
  datacenter: string
  onlyPassing: boolean
  random: () => number
  monotonicMs: () => number
}

/** `topics` is what the value depends on; undefined when that is more than topics can say, so that it must be read anew each time. */
export interface Found<T> {
  value: T
  topics: readonly string[] | undefined
}

/** Usable instances of one service as of the last revision that touched its topics. */
interface Usable {
  instances: Instance[]
  topics: readonly string[]
  index: number
  /** The tables' revision at which the index was last looked at. */
  seen: number
}

const maxCachedServices = 1024

export class Lookup {
  readonly #options: LookupOptions
  readonly #usable = new LRUCache<string, Usable>({ max: maxCachedServices })
  readonly #reverse: Derived<Map<string, string>>
  readonly #peerNodes: Derived<Map<string, Node>>

  constructor(options: LookupOptions) {
    this.#options = options
    const derived = <T>(build: () => T) => new Derived(() => options.tables.revision, options.monotonicMs, build)
    this.#reverse = derived(() => this.#buildReverse())
    this.#peerNodes = derived(() => this.#buildPeerNodes())
  }

  /** Usable instances, by node name, then service id. */
  instances(form: Extract<Form, { form: 'service' | 'connect' }>): Found<Instance[]> {
    if (!this.#isOurs(form.datacenter)) return { value: [], topics: [] }
    const { instances, topics } =
      form.form === 'service' ? this.#usableOf('service', form.service, form.peer) : this.#usableOf('connect', form.service, '')
    const tag = form.form === 'service' ? form.tag : ''
    const value =
      tag === '' ? instances : instances.filter(({ instance }) => instance.service.tags.some(each => each.toLowerCase() === tag))
    return { value, topics }
  }

  /** What the query found, and what its instances weigh. */
  query(form: Extract<Form, { form: 'query' }>): { result: QueryResult; instances: Instance[] } | undefined {
    const result = this.#isOurs(form.datacenter) ? this.#options.query(form.query) : undefined
    return result && { result, instances: result.nodes.map(instance => ({ instance, weight: weightOf(instance) })) }
  }

  /** In a random order, drawn one by one: whoever needs three of ten thousand pays for three. */
  *drawn<T>(all: readonly T[]): Generator<T> {
    const pool = [...all]
    for (let left = pool.length; left > 0; left--) {
      const at = Math.floor(this.#options.random() * left)
      const each = pool[at]!
      pool[at] = pool[left - 1]!
      yield each
    }
  }

  node(form: Extract<Form, { form: 'node' }>): Found<Node | undefined> {
    // Derived from everything that was imported, and a moment behind it.
    if (form.peer !== '') return { value: this.#peerNodes.get().get(`${form.peer}/${form.node}`), topics: undefined }
    return this.#isOurs(form.datacenter) ? this.#options.tables.node(form.node) : { value: undefined, topics: [] }
  }

  virtualAddress(form: Extract<Form, { form: 'virtual' }>): Found<string | undefined> {
    return this.#isOurs(form.datacenter) ? this.#options.tables.virtualIp(form.service, form.peer) : { value: undefined, topics: [] }
  }

  /** The nodes that answer for the zone: those with a usable instance of the service `consul`. */
  *servers(): Generator<Node> {
    const seen = new Set<string>()
    const all = this.instances({ form: 'service', service: 'consul', tag: '', datacenter: '', peer: '' }).value
    for (const { instance } of this.drawn(all)) {
      if (seen.has(instance.node.node)) continue
      seen.add(instance.node.node)
      yield instance.node
    }
  }

  /** `NODE.node.DC` or `SERVICE.service.DC` of an address of our own cluster; imported addresses have no reverse name. */
  reverse(address: string): string | undefined {
    return this.#reverse.get().get(address)
  }

  #isOurs(datacenter: string): boolean {
    return datacenter === '' || datacenter === this.#options.datacenter
  }

  #usableOf(kind: 'service' | 'connect', service: string, peer: string): Usable {
    const { tables, onlyPassing } = this.#options
    const key = `${kind}/${peer}/${service}`
    const seen = tables.revision
    const known = this.#usable.get(key)
    if (known && (known.seen === seen || tables.indexOf(known.topics) === known.index)) {
      known.seen = seen
      return known
    }
    const { value, topics, index } = kind === 'service' ? tables.instances(service, peer) : tables.connectInstances(service, peer)
    const instances: Instance[] = []
    for (const instance of value) {
      const status = aggregateStatus(instance.checks)
      if (status !== 'passing' && (onlyPassing || status !== 'warning')) continue
      instances.push({ instance, weight: weightOf(instance) })
    }
    const usable = { instances, topics, index, seen }
    // Names that nobody has are asked for by the million; only those that answer are worth a place.
    if (instances.length > 0) this.#usable.set(key, usable)
    return usable
  }

  #buildReverse(): Map<string, string> {
    const { tables, datacenter } = this.#options
    const names = new Map<string, string>()
    const add = (address: string, name: string) => {
      const key = canonicalAddress(address)
      if (key !== undefined && !names.has(key)) names.set(key, name)
    }
    for (const node of tables.nodes().value) add(node.address, `${node.node}.node.${datacenter}`)
    for (const service of tables.services().value.keys()) {
      for (const each of tables.instances(service).value) add(each.service.address, `${service}.service.${datacenter}`)
    }
    return names
  }

  #buildPeerNodes(): Map<string, Node> {
    const { tables } = this.#options
    const nodes = new Map<string, Node>()
    for (const peer of tables.importedPeers()) {
      for (const { service } of tables.importedServices(peer).value) {
        for (const { node } of tables.instances(service, peer).value) nodes.set(`${peer}/${node.node.toLowerCase()}`, node)
      }
    }
    return nodes
  }
}

/** Something computed from the whole catalog. Built when asked for and out of date, yet never for more than a twentieth of the time. */
class Derived<T> {
  readonly #revision: () => number
  readonly #monotonicMs: () => number
  readonly #build: () => T
  #built: { value: T; revision: number; notBeforeMs: number } | undefined

  constructor(revision: () => number, monotonicMs: () => number, build: () => T) {
    this.#revision = revision
    this.#monotonicMs = monotonicMs
    this.#build = build
  }

  get(): T {
    const revision = this.#revision()
    const startMs = this.#monotonicMs()
    if (this.#built && (this.#built.revision === revision || startMs < this.#built.notBeforeMs)) return this.#built.value
    const value = this.#build()
    const endMs = this.#monotonicMs()
    this.#built = { value, revision, notBeforeMs: endMs + 19 * (endMs - startMs) }
    return value
  }
}

/** Checks of the node and of this service count (dns.md 2). */
function weightOf({ service, checks }: CheckServiceNode): number {
  const counted = checks.filter(check => check.serviceName === service.service || check.serviceName === '')
  return aggregateStatus(counted) === 'warning' ? service.weights.warning : service.weights.passing
}

function canonicalAddress(address: string): string | undefined {
  return isIP(address) === 0 ? undefined : addressText(addressBytes(address))
}
