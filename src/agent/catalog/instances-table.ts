/**
 * Our own nodes, services and checks, joined into instances. A revision's nodes are applied before its services, those before checks. A change of a node, or of a check of the node itself, touches every
 * service of that node; a change of a service or of its checks touches that service alone (spec/http-api.md 1.8).
 * What is given out is shared between readers: nobody changes it.
 */
import type { HealthCheck } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import { isTypical, type CheckServiceNode, type NodeService } from '../../mesh/service.ts'
import type { Change } from './records.ts'
import type { Reading, Topics } from './topics.ts'
import { compareText } from '../../lib/order.ts'

/** One service of one node, the same wherever it is found. */
interface Placed {
  place: string
  node: string
  service: NodeService
  /** Joined, until a record of it changes: of a large service one change makes one instance anew, and it can be told which. */
  instance: CheckServiceNode | undefined
}

type ById<T> = Map<string, T>

export class InstancesTable {
  readonly #topics: Topics
  /** All keyed by the lower-cased node name. */
  readonly #nodes = new Map<string, Node>()
  readonly #services = new Map<string, ById<NodeService>>()
  readonly #checks = new Map<string, ById<HealthCheck>>()
  /** Checks by node and service id; the id is empty for checks of the node. */
  readonly #checksOf = new Map<string, ById<HealthCheck>>()
  /** Instances by lower-cased service name, by the service that they stand in front of, and the mesh gateways. */
  readonly #byName = new Map<string, ById<Placed>>()
  readonly #byTarget = new Map<string, ById<Placed>>()
  readonly #gateways: ById<Placed> = new Map()
  /** Joined instances by topic, until that is touched. */
  readonly #joined = new Map<string, CheckServiceNode[]>()
  /** A group in order, until one comes or goes. */
  readonly #orders = new WeakMap<ById<Placed>, Placed[]>()
  /** The answer of `services`, likewise. */
  #names: Map<string, string[]> | undefined
  readonly #dirtyNodes = new Set<string>()

  constructor(topics: Topics) {
    this.#topics = topics
  }

  clear(): void {
    for (const map of [this.#nodes, this.#services, this.#checks, this.#checksOf, this.#byName, this.#byTarget]) map.clear()
    this.#gateways.clear()
    this.#orders.delete(this.#gateways)
    this.#joined.clear()
    this.#names = undefined
  }

  applyNode(change: Change): void {
    const key = change.path[0]!
    if (change.value === undefined) this.#nodes.delete(key)
    else this.#nodes.set(key, indexed(change) as Node)
    this.#topics.touch('nodes')
    this.#touchNode(`node/${key}`, key)
    this.#touchNode(`node-services/${key}`, key)
    this.#dirtyNodes.add(key)
  }

  applyService(change: Change): void {
    const [node, id] = change.path as [string, string]
    const before = this.#services.get(node)?.get(id)
    const after = change.value === undefined ? undefined : (indexed(change) as NodeService)
    if (before && !(after && isSamePlace(before, after))) this.#unplace(node, before)
    if (after) {
      put(this.#services, node, id, after)
      this.#place(node, after)
    } else {
      drop(this.#services, node, id)
    }
    if (!before || !after || before.service !== after.service || before.tags.join('\0') !== after.tags.join('\0'))
      this.#topics.touch('services')
    this.#touchNode(`node-services/${node}`, node)
    for (const service of [before, after]) if (service) this.#touchInstance(service)
  }

  applyCheck(change: Change): void {
    const [node, id] = change.path as [string, string]
    const before = this.#checks.get(node)?.get(id)
    const after = change.value === undefined ? undefined : (indexed(change) as HealthCheck)
    if (before) drop(this.#checksOf, placeKey(node, before.serviceId), id)
    if (after) {
      put(this.#checks, node, id, after)
      put(this.#checksOf, placeKey(node, after.serviceId), id, after)
    } else {
      drop(this.#checks, node, id)
    }
    this.#topics.touch('checks')
    this.#touchNode(`checks-node/${node}`, node)
    for (const check of [before, after]) {
      if (!check) continue
      if (check.serviceId === '') {
        this.#dirtyNodes.add(node)
        continue
      }
      if (check.serviceName !== '') this.#touchNamed(`checks-service/${fold(check.serviceName)}`, fold(check.serviceName))
      const service = this.#services.get(node)?.get(check.serviceId)
      if (!service) continue
      this.#parted(node, service)
      this.#touchInstance(service)
    }
  }

  /** Ends a revision: what depends on several records of it is touched once all are there. */
  seal(): void {
    for (const node of this.#dirtyNodes) {
      for (const service of this.#services.get(node)?.values() ?? []) {
        this.#parted(node, service)
        this.#touchInstance(service)
      }
    }
    this.#dirtyNodes.clear()
    for (const topic of this.#topics.touched()) {
      this.#joined.delete(topic)
      if (topic === 'services') this.#names = undefined
    }
  }

  nodes(): Reading<Node[]> {
    return this.#topics.read(
      [...this.#nodes].sort(byKey).map(pair => pair[1]),
      'nodes',
    )
  }

  node(name: string): Reading<Node | undefined> {
    const key = fold(name)
    return this.#topics.read(this.#nodes.get(key), `node/${key}`)
  }

  /** Service names with the union of their tags. */
  services(): Reading<Map<string, string[]>> {
    this.#names ??= this.#collectNames()
    return this.#topics.read(this.#names, 'services')
  }

  instances(service: string): Reading<CheckServiceNode[]> {
    const name = fold(service)
    return this.#join(`instances//${name}`, this.#byName.get(name))
  }

  connectInstances(service: string): Reading<CheckServiceNode[]> {
    const name = fold(service)
    return this.#join(`connect//${name}`, this.#byTarget.get(name))
  }

  gateways(): Reading<CheckServiceNode[]> {
    return this.#join('gateways', this.#gateways)
  }

  nodeServices(name: string): Reading<{ node: Node; services: NodeService[] } | undefined> {
    const key = fold(name)
    const node = this.#nodes.get(key)
    const services = sortedValues(this.#services.get(key))
    return this.#topics.read(node && { node, services }, `node-services/${key}`)
  }

  /** One instance by its node and id, for the writers. */
  serviceOf(node: string, id: string): NodeService | undefined {
    return this.#services.get(fold(node))?.get(id)
  }

  checkOf(node: string, id: string): HealthCheck | undefined {
    return this.#checks.get(fold(node))?.get(id)
  }

  checksOfInstance(node: string, serviceId: string): HealthCheck[] {
    return sortedValues(this.#checksOf.get(placeKey(fold(node), serviceId)))
  }

  checksOfNode(name: string): Reading<HealthCheck[]> {
    const key = fold(name)
    return this.#topics.read(sortedValues(this.#checks.get(key)), `checks-node/${key}`)
  }

  checksOfService(service: string): Reading<HealthCheck[]> {
    const name = fold(service)
    const value = this.#ordered(this.#byName.get(name)).flatMap(({ place }) => sortedValues(this.#checksOf.get(place)))
    return this.#topics.read(value, `checks-service/${name}`)
  }

  checksInState(state: string): Reading<HealthCheck[]> {
    const all = [...this.#checks].sort(byKey).flatMap(pair => sortedValues(pair[1]))
    return this.#topics.read(state === 'any' ? all : all.filter(check => check.status === state), 'checks')
  }

  #collectNames(): Map<string, string[]> {
    const tags = new Map<string, Set<string>>()
    for (const placed of this.#byName.values()) {
      for (const { service } of placed.values()) {
        const known = tags.get(service.service) ?? new Set()
        for (const tag of service.tags) known.add(tag)
        tags.set(service.service, known)
      }
    }
    return new Map([...tags].sort(byKey).map(([name, set]): [string, string[]] => [name, [...set].sort()]))
  }

  #join(topic: string, placed: ById<Placed> | undefined): Reading<CheckServiceNode[]> {
    let value = this.#joined.get(topic)
    if (!value) {
      value = []
      for (const each of this.#ordered(placed)) {
        each.instance ??= this.#joinInstance(each)
        if (each.instance) value.push(each.instance)
      }
      // Only what exists is remembered, so that asking for any name costs nothing.
      if (value.length > 0) this.#joined.set(topic, value)
    }
    return this.#topics.read(value, topic)
  }

  #joinInstance({ place, node, service }: Placed): CheckServiceNode | undefined {
    const at = this.#nodes.get(node)
    if (!at) return undefined
    const nodeChecks = sortedValues(this.#checksOf.get(placeKey(node, '')))
    return { node: at, service, checks: [...nodeChecks, ...sortedValues(this.#checksOf.get(place))] }
  }

  /** By node, then service id. */
  #ordered(placed: ById<Placed> | undefined): readonly Placed[] {
    if (!placed) return []
    let order = this.#orders.get(placed)
    if (!order) {
      order = [...placed.values()].sort((a, b) => compareText(a.node, b.node) || compareText(a.service.id, b.service.id))
      this.#orders.set(placed, order)
    }
    return order
  }

  #place(node: string, service: NodeService): void {
    const place = placeKey(node, service.id)
    const known = this.#byName.get(fold(service.service))?.get(place)
    if (known) {
      Object.assign(known, { service, instance: undefined })
      return
    }
    const placed = { place, node, service, instance: undefined }
    const target = meshTarget(service)
    const groups = [group(this.#byName, fold(service.service))]
    if (target !== undefined) groups.push(group(this.#byTarget, fold(target)))
    if (service.kind === 'mesh-gateway') groups.push(this.#gateways)
    for (const each of groups) {
      each.set(place, placed)
      this.#orders.delete(each)
    }
  }

  /** A record of it changes. */
  #parted(node: string, service: NodeService): void {
    const placed = this.#byName.get(fold(service.service))?.get(placeKey(node, service.id))
    if (placed) placed.instance = undefined
  }

  #unplace(node: string, service: NodeService): void {
    const place = placeKey(node, service.id)
    const target = meshTarget(service)
    for (const [map, name] of [
      [this.#byName, service.service],
      [this.#byTarget, target],
    ] as const) {
      if (name === undefined) continue
      const placed = map.get(fold(name))
      if (placed) this.#orders.delete(placed)
      drop(map, fold(name), place)
    }
    if (this.#gateways.delete(place)) this.#orders.delete(this.#gateways)
  }

  #touchInstance(service: NodeService): void {
    const name = fold(service.service)
    this.#touchNamed(`instances//${name}`, name)
    this.#touchNamed(`checks-service/${name}`, name)
    const target = meshTarget(service)
    if (target !== undefined) {
      const topic = `connect//${fold(target)}`
      if (this.#byTarget.has(fold(target))) this.#topics.touch(topic)
      else this.#topics.lose(topic)
    }
    if (service.kind === 'mesh-gateway') this.#topics.touch('gateways')
  }

  #touchNamed(topic: string, name: string): void {
    if (this.#byName.has(name)) this.#topics.touch(topic)
    else this.#topics.lose(topic)
  }

  #touchNode(topic: string, node: string): void {
    if (this.#nodes.has(node)) this.#topics.touch(topic)
    else this.#topics.lose(topic)
  }
}

/** The service that an instance is a mesh endpoint of: a sidecar's destination, or a native instance's own name. */
export function meshTarget(service: NodeService): string | undefined {
  if (service.kind === 'connect-proxy') return service.proxy.destinationServiceName || undefined
  return isTypical(service.kind) && service.connect.native ? service.service : undefined
}

/** Names of nodes and services are looked up without regard to case. */
export function fold(name: string): string {
  return name.toLowerCase()
}

/** The record of a change with the indexes of its entry. */
export function indexed({ value, createIndex, modifyIndex }: Change): object {
  return { ...(value as object), createIndex, modifyIndex }
}

function byKey(a: readonly [string, unknown], b: readonly [string, unknown]): number {
  return compareText(a[0], b[0])
}

function sortedValues<T>(map: ById<T> | undefined): T[] {
  if (!map) return []
  // Most instances have one check.
  return map.size === 1 ? [...map.values()] : [...map].sort(byKey).map(pair => pair[1])
}

/** The one is found wherever the other was. */
function isSamePlace(a: NodeService, b: NodeService): boolean {
  return a.service === b.service && a.kind === b.kind && meshTarget(a) === meshTarget(b)
}

function group(map: Map<string, ById<Placed>>, name: string): ById<Placed> {
  let placed = map.get(name)
  if (!placed) {
    placed = new Map()
    map.set(name, placed)
  }
  return placed
}

function put<T>(map: Map<string, ById<T>>, key: string, id: string, value: T): void {
  const inner = map.get(key)
  if (inner) inner.set(id, value)
  else map.set(key, new Map([[id, value]]))
}

function drop<T>(map: Map<string, ById<T>>, key: string, id: string): void {
  const inner = map.get(key)
  inner?.delete(id)
  if (inner?.size === 0) map.delete(key)
}

/** Names may hold any character, so the length of the first part keeps the two apart. */
function placeKey(node: string, serviceId: string): string {
  return `${node.length}/${node}/${serviceId}`
}
