/**
 * What must hold in every simulation at every moment, and what must hold in the end: what is imported becomes exactly what is
 * exported; nothing that was not exported is ever seen, and no set in parts; nobody is active without hearing from the peer, or on
 * data that ended long ago.
 */
import { silenceMs } from '../../../../src/agent/peering/session.ts'
import type { WatchBatch } from '../../../../src/agent/store/store.ts'
import type { Cluster } from './cluster.ts'
import { Ledger } from './ledger.ts'
import type { Network } from './network.ts'
import type { Timeline } from './timeline.ts'
import { exportedNames, exportedView, importedText, importedView } from './views.ts'

/** One way of a peering: who exports, and what each calls the other. */
export interface Way {
  exporter: Cluster
  importer: Cluster
  /** The exporter's name for the importer. */
  peer: string
  /** The importer's name for the exporter. */
  source: string
}

/** A dead network is noticed after the silence; what was on its way, and waits for the disk, is older by this. */
const underWayMs = 15_000
const staleMs = silenceMs + underWayMs
/** A new stream says everything again, which takes a while on a slow network. */
const resyncMs = 30_000

const local = /^(?:node|service|check|config)\//
const importedRecord = /^imported\/([^/]+)\/(.+)$/

export class Invariants {
  readonly #ways: Way[]
  readonly #timeline: Timeline
  readonly #network: Network
  readonly #violate: (what: string) => void
  readonly #ledger = new Ledger()

  constructor(options: { ways: Way[]; timeline: Timeline; network: Network; violate: (what: string) => void }) {
    this.#ways = options.ways
    this.#timeline = options.timeline
    this.#network = options.network
    this.#violate = options.violate
  }

  /** A process has read what was on its disk. */
  started(cluster: Cluster): void {
    this.#noteExports(cluster)
  }

  /** The tables of a cluster have applied a revision. */
  applied(cluster: Cluster, { events }: WatchBatch): void {
    if (events.some(event => local.test(event.key))) this.#noteExports(cluster)
    for (const { key } of events) {
      const [, source, service] = importedRecord.exec(key) ?? []
      if (source !== undefined) this.#checkImported(cluster, source, decodeURIComponent(service!))
    }
  }

  /** Now and then. */
  check(): void {
    for (const way of this.#ways) {
      const peering = way.importer.peering(way.source)
      if (peering?.state === 'ACTIVE') this.#checkActive(way)
      const { state, ageMs } = peering?.streamStatus.freshness ?? {}
      if (state === 'FRESH') this.#checkTrue(way, `FRESH, ${ageMs} ms old`, ageMs! + underWayMs)
    }
  }

  /** What is still missing, for a network that works and operators that rest; empty in the end. */
  unfinished(): string[] {
    return this.#ways.flatMap(way => unfinished(way, this.#ledger.current(pageOf(way))).map(what => `${nameOf(way)}: ${what}`))
  }

  #noteExports(cluster: Cluster): void {
    const { process } = cluster
    if (!process) return
    for (const way of this.#ways) {
      if (way.exporter !== cluster) continue
      this.#ledger.note(pageOf(way), exportedView(process.tables, cluster.name, way.peer), this.#timeline.monotonicMs())
    }
  }

  #checkImported(cluster: Cluster, source: string, service: string): void {
    const way = this.#ways.find(each => each.importer === cluster && each.source === source)
    if (!way || !cluster.process) {
      this.#violate(`${cluster.name} imports ${service} from ${source}, which is no peer of it`)
      return
    }
    const text = importedText(cluster.process.tables, source, service)
    const everMs = this.#ledger.lastTrueMs(pageOf(way), service, text, this.#timeline.monotonicMs())
    if (text !== '' && everMs === undefined) this.#violate(`${nameOf(way)}: ${service} was never exported so: ${text}`)
  }

  #checkActive(way: Way): void {
    const process = way.importer.process!
    const streams = [...this.#network.streams].filter(stream => stream.isUpFor(process, way.exporter.name))
    if (streams.length === 0) {
      this.#violate(`${nameOf(way)}: ACTIVE without a stream`)
      return
    }
    const nowMs = this.#timeline.monotonicMs()
    if (nowMs - Math.max(...streams.map(stream => stream.openedMs)) < resyncMs) return
    this.#checkTrue(way, 'ACTIVE', staleMs)
  }

  /** Everything that is held was what the exporter had at some moment that is no longer ago. */
  #checkTrue(way: Way, claim: string, maxAgeMs: number): void {
    const nowMs = this.#timeline.monotonicMs()
    const view = importedView(way.importer.process!.tables, way.source)
    for (const service of new Set([...view.keys(), ...this.#ledger.current(pageOf(way)).keys()])) {
      const trueMs = this.#ledger.lastTrueMs(pageOf(way), service, view.get(service) ?? '', nowMs)
      const ageMs = nowMs - (trueMs ?? -Infinity)
      if (ageMs > maxAgeMs) this.#violate(`${nameOf(way)}: ${claim}, and ${service} was last so ${Math.round(ageMs / 1000)} s ago`)
    }
  }
}

function unfinished({ exporter, importer, peer, source }: Way, exported: ReadonlyMap<string, string>): string[] {
  if (!exporter.process || !importer.process) return ['one of the two is down']
  const missing: string[] = []
  const { tables } = importer.process
  const view = importedView(tables, source)
  for (const service of new Set([...view.keys(), ...exported.keys()])) {
    const [theirs, ours] = [exported.get(service), view.get(service)]
    if (theirs !== ours) missing.push(`${service} is exported as ${theirs ?? 'nothing'} and imported as ${ours ?? 'nothing'}`)
  }
  const peering = importer.peering(source)
  const state = peering?.state ?? 'absent'
  if (state !== 'ACTIVE') missing.push(`the importer's peering is ${state}`)
  const listed = peering?.streamStatus.importedServices ?? []
  const names = exportedNames(exporter.process.tables, peer)
  if (listed.join() !== names.join()) missing.push(`${names.join() || 'nothing'} is exported and ${listed.join() || 'nothing'} is listed`)
  const roots = tables.trustBundle(source).value?.rootPems ?? []
  if (roots.join() !== exporter.process.roots().join()) missing.push(`${roots.length} roots are not those of the exporter`)
  const held = tables.virtualIps(source).filter(each => !view.has(`${each.service}-sidecar-proxy`))
  if (held.length > 0) missing.push(`virtual addresses are kept for ${held.map(each => each.service).join()}`)
  const mixed = [...tables.services().value.keys()].filter(name => tables.instances(name).value.some(each => each.service.peerName !== ''))
  if (mixed.length > 0) missing.push(`${mixed.join()} of its own has imported instances`)
  return missing
}

function pageOf({ exporter, peer }: Way): string {
  return `${exporter.name} ${peer}`
}

function nameOf({ exporter, importer }: Way): string {
  return `${exporter.name} -> ${importer.name}`
}
