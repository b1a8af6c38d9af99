/**
 * What the catalog says to a form: instances that may be used, in an order of their own each time, nodes, virtual addresses and
 * reverse names. Critical instances never leave here, and a peer's are found only under that peer's name.
 */
import { LRUCache } from 'lru-cache'
import { isIP } from 'node:net'
import { aggregateStatus } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import type { CheckServiceNode } from '../../mesh/service.ts'
import { addressBytes, addressText } from '../../wire/dns/writer.ts'
import type { Tables } from '../catalog/tables.ts'
import type { Form } from './question.ts'

export interface Instance {
  instance: CheckServiceNode
  /** SRV weight: by the state of the checks that count for the instance. */
  weight: number
}

export interface LookupOptions {
  tables: Tables
  datacenter: string
  onlyPassing: boolean
  random: () => number
  monotonicMs: () => number
}

/** Usable instances of one service as of one revision of the tables. */
interface Usable {
  revision: number
  instances: Instance[]
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

  /** Usable instances in a random order, drawn one by one: whoever needs three of ten thousand pays for three. */
  *instances(form: Extract<Form, { form: 'service' | 'connect' }>): Generator<Instance> {
    if (!this.#isOurs(form.datacenter)) return
    const all = form.form === 'service' ? this.#cached('service', form.service, form.peer) : this.#cached('connect', form.service, '')
    const tag = form.form === 'service' ? form.tag : ''
    const pool = [...all]
    for (let left = pool.length; left > 0; left--) {
      const at = Math.floor(this.#options.random() * left)
      const drawn = pool[at]!
      pool[at] = pool[left - 1]!
      if (tag === '' || drawn.instance.service.tags.some(each => each.toLowerCase() === tag)) yield drawn
    }
  }

  node(form: Extract<Form, { form: 'node' }>): Node | undefined {
    if (form.peer !== '') return this.#peerNodes.get().get(`${form.peer}/${form.node}`)
    return this.#isOurs(form.datacenter) ? this.#options.tables.node(form.node).value : undefined
  }

  virtualAddress(form: Extract<Form, { form: 'virtual' }>): string | undefined {
    if (!this.#isOurs(form.datacenter)) return undefined
    return this.#options.tables.virtualIp(form.service, form.peer).value
  }

  /** The nodes that answer for the zone: those with a usable instance of the service `consul`. */
  *servers(): Generator<Node> {
    const seen = new Set<string>()
    for (const { instance } of this.instances({ form: 'service', service: 'consul', tag: '', datacenter: '', peer: '' })) {
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

  #cached(kind: 'service' | 'connect', service: string, peer: string): Instance[] {
    const { tables, onlyPassing } = this.#options
    const key = `${kind}/${peer}/${service}`
    const revision = tables.revision
    const known = this.#usable.get(key)
    if (known?.revision === revision) return known.instances
    const found = kind === 'service' ? tables.instances(service, peer) : tables.connectInstances(service, peer)
    const instances: Instance[] = []
    for (const instance of found.value) {
      const status = aggregateStatus(instance.checks)
      if (status !== 'passing' && (onlyPassing || status !== 'warning')) continue
      instances.push({ instance, weight: weightOf(instance) })
    }
    // Names that nobody has are asked for by the million; only those that answer are worth a place.
    if (instances.length > 0) this.#usable.set(key, { revision, instances })
    return instances
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
