/**
 * Snapshots: what each proxy of this agent is told, whole and then as changes. A stream says the whole set, a `sync`, and from then on
 * only resources whose content changed, each set ended by a `sync`; it is never silent for long, and never says half a change.
 */
import { systemClock, type Clock, type Timer } from '../../lib/clock.ts'
import { messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import type { CheckServiceNode } from '../../mesh/service.ts'
import type { Resource, Self, SnapshotLine } from '../../mesh/snapshot.ts'
import type { Question, WhyScene } from '../../mesh/why.ts'
import { snapshotHeartbeatMs } from '../../wire/internal-api.ts'
import type { Tables } from '../catalog/tables.ts'
import type { Reading } from '../catalog/topics.ts'
import { gatherGateway } from './gateway.ts'
import { Gathering, type SnapshotContext } from './gathering.ts'
import { gatherSidecar } from './sidecar.ts'
import { whyScene, type PeeringFacts } from './why.ts'

/** Changes that come closer together than this leave as one set, so that a flapping check costs a proxy little. */
export const coalesceMs = 20

/** Everything one proxy is told, as the tables are now. Undefined when no proxy of that id is registered on this node. */
export function resourcesFor(proxyId: string, context: SnapshotContext): { found: boolean; reading: Reading<Resource[]> } {
  const gathering = new Gathering()
  const instance = proxyInstance(proxyId, gathering, context)
  if (instance?.service.kind === 'mesh-gateway') gatherGateway(instance, gathering, context)
  else if (instance !== undefined) gatherSidecar(instance, gathering, context)
  return { found: instance !== undefined, reading: gathering.finish() }
}

/** The proxy with its checks. */
function proxyInstance(proxyId: string, gathering: Gathering, context: SnapshotContext): CheckServiceNode | undefined {
  const { tables, node } = context
  const service = gathering.read(tables.nodeServices(node))?.services.find(each => each.id === proxyId)
  if (service === undefined) return undefined
  const isHere = (each: CheckServiceNode) => each.service.id === proxyId && each.node.node.toLowerCase() === node.toLowerCase()
  if (service.kind === 'mesh-gateway') return gathering.read(tables.gateways()).find(isHere)
  if (service.kind !== 'connect-proxy' || !service.proxy.destinationServiceName) return undefined
  return gathering.read(tables.connectInstances(service.proxy.destinationServiceName)).find(isHere)
}

export class Snapshots {
  readonly #tables: Tables
  readonly #context: SnapshotContext
  readonly #clock: Clock
  readonly #logger: Logger | undefined

  constructor(options: Omit<SnapshotContext, 'tables'> & { tables: Tables; clock?: Clock; logger?: Logger }) {
    const { tables, clock, logger, ...rest } = options
    this.#logger = logger
    this.#tables = tables
    this.#context = { ...rest, tables }
    this.#clock = clock ?? systemClock
  }

  /** Such a proxy is registered on this node. */
  knows(proxyId: string): boolean {
    return proxyInstance(proxyId, new Gathering(), this.#context) !== undefined
  }

  /** The whole set now; undefined when no such proxy is registered on this node. */
  snapshot(proxyId: string): Reading<Resource[]> | undefined {
    const { found, reading } = resourcesFor(proxyId, this.#context)
    return found ? reading : undefined
  }

  /** What is known here of a call. */
  why(question: Question, peerings: PeeringFacts): WhyScene {
    return whyScene(question, this.#context, peerings)
  }

  /** Says the whole set at once, then changes. Undefined when no such proxy is registered on this node. */
  stream(proxyId: string, onLines: (lines: SnapshotLine[]) => void): { close(): void } | undefined {
    const first = resourcesFor(proxyId, this.#context)
    if (!first.found) return undefined
    const parts = { tables: this.#tables, context: this.#context, clock: this.#clock, logger: this.#logger, onLines }
    return new SnapshotStream(proxyId, first.reading, parts)
  }
}

interface StreamParts {
  tables: Tables
  context: SnapshotContext
  clock: Clock
  logger: Logger | undefined
  onLines: (lines: SnapshotLine[]) => void
}

class SnapshotStream {
  readonly #proxyId: string
  readonly #parts: StreamParts
  readonly #told = new Map<string, Resource>()
  #subscription: { close(): void } | undefined
  #heartbeat: Timer | undefined
  #pause: Timer | undefined
  #changed = false
  #closed = false

  constructor(proxyId: string, first: Reading<Resource[]>, parts: StreamParts) {
    this.#proxyId = proxyId
    this.#parts = parts
    this.#watch(first.topics)
    this.#say(this.#difference(first.value))
  }

  close(): void {
    this.#closed = true
    this.#subscription?.close()
    this.#heartbeat?.cancel()
    this.#pause?.cancel()
  }

  #watch(topics: readonly string[]): void {
    this.#subscription?.close()
    this.#subscription = this.#parts.tables.subscribe(
      () => topics,
      () => this.#onChange(),
    )
  }

  /** The first change goes out at once; those close behind it leave together. */
  #onChange(): void {
    this.#changed = true
    if (this.#pause !== undefined || this.#closed) return
    this.#tell()
    this.#pause = this.#parts.clock.after(coalesceMs, () => {
      this.#pause = undefined
      if (this.#changed) this.#onChange()
    })
  }

  #tell(): void {
    this.#changed = false
    try {
      const { found, reading } = resourcesFor(this.#proxyId, this.#parts.context)
      this.#watch(reading.topics)
      const lines = found ? this.#difference(reading.value) : this.#gone()
      if (lines.length > 0) this.#say(lines)
    } catch (error) {
      // A mistake of ours costs this stream only. It falls silent, so that its proxy does not take what it knows for confirmed.
      this.#heartbeat?.cancel()
      this.#parts.logger?.error(
        { proxyId: this.#proxyId, error: messageOf(error) },
        'a snapshot cannot be gathered; its proxy keeps the last one',
      )
    }
  }

  /** What the proxy was not told yet, and what is not there any more. */
  #difference(resources: readonly Resource[]): Resource[] {
    const lines: Resource[] = []
    const present = new Set<string>()
    for (const resource of resources) {
      const key = `${resource.kind}/${resource.name}`
      present.add(key)
      if (this.#told.get(key)?.version === resource.version) continue
      this.#told.set(key, resource)
      lines.push(resource)
    }
    for (const [key, { kind, name }] of this.#told) {
      if (present.has(key)) continue
      this.#told.delete(key)
      lines.push({ kind, name, version: '', value: null })
    }
    return lines
  }

  /** A proxy that is not registered any more keeps what it knows and drains: whoever calls it is told to go elsewhere. */
  #gone(): Resource[] {
    const self = [...this.#told.values()].find(each => each.kind === 'self')
    if (self === undefined || (self.value as Self).draining) return []
    const draining = { ...self, version: `${self.version}-gone`, value: { ...(self.value as Self), draining: true } } as Resource
    this.#told.set(`self/${self.name}`, draining)
    return [draining]
  }

  #say(resources: readonly Resource[]): void {
    this.#heartbeat?.cancel()
    // Well within the promise, so that a busy loop does not break it.
    this.#heartbeat = this.#parts.clock.after(snapshotHeartbeatMs * 0.6, () => this.#say([]))
    this.#parts.onLines([...resources, { kind: 'sync', revision: this.#parts.tables.revision }])
  }
}
