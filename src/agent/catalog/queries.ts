/**
 * Prepared queries: stored, found by id, name or template, and executed over the tables (spec/http-api.md 13). A query that finds
 * nobody in its own place tries its targets one after another; a peer shows only what it exports to us.
 */
import { randomInt, randomUUID } from 'node:crypto'
import { parseDuration } from '../../lib/duration.ts'
import { MeshError } from '../../lib/errors.ts'
import type { HealthCheck } from '../../mesh/check.ts'
import type { PreparedQuery, QueryTarget } from '../../mesh/prepared-query.ts'
import { checkTemplate, renderTemplate } from '../../mesh/query-template.ts'
import type { CheckServiceNode } from '../../mesh/service.ts'
import type { Compare, Op, Store } from '../store/store.ts'
import { commit, putRecord, unchanged, type Proposal } from './commit.ts'
import { keys } from './keys.ts'
import type { Tables } from './tables.ts'

export interface Execution {
  query: PreparedQuery
  nodes: CheckServiceNode[]
  /** Where the nodes are: our datacenter, or a peer. */
  datacenter: string
  peerName: string
  /** Targets that were tried. */
  failovers: number
}

export interface ExecutionOptions {
  /** Mesh endpoints instead of instances. */
  connect?: boolean
  /** At most so many nodes; 0 is all. */
  limit?: number
}

interface Names {
  /** Of the tables, as of which this holds. */
  index: number
  /** By folded name. */
  plain: ReadonlyMap<string, PreparedQuery>
  /** The longest prefix first. */
  templates: readonly PreparedQuery[]
}

/** Templates of a cluster are looked through one by one. */
const maxQueries = 10_000
const idLength = 36

export class Queries {
  readonly #store: Store
  readonly #tables: Tables
  readonly #datacenter: string
  #names: Names | undefined

  constructor(options: { store: Store; tables: Tables; datacenter: string }) {
    this.#store = options.store
    this.#tables = options.tables
    this.#datacenter = options.datacenter
  }

  async create(query: PreparedQuery): Promise<string> {
    const id = randomUUID()
    if (this.#tables.preparedQueries().value.length >= maxQueries) {
      throw new MeshError('unavailable', `there are ${maxQueries} prepared queries already; delete some, or use a template`)
    }
    await this.#put({ ...query, id }, () => undefined)
    return id
  }

  async update(query: PreparedQuery): Promise<void> {
    await this.#put(query, () => this.#known(query.id))
  }

  async delete(id: string): Promise<void> {
    await commit(this.#store, this.#tables, (): Proposal<void> => {
      const current = this.#known(id)
      const ops = keys.ofQuery(current).map((key): Op => ({ op: 'delete', key }))
      return { result: undefined, ops, compare: [unchanged(keys.query(current.id), current)] }
    })
  }

  /** By id, then by name, then by the longest prefix of a template. */
  resolve(idOrName: string): PreparedQuery | undefined {
    if (idOrName.length === idLength) {
      const byId = this.#tables.preparedQuery(idOrName).value
      if (byId) return byId.template.type === '' ? byId : renderTemplate(byId, byId.name)
    }
    const name = idOrName.toLowerCase()
    const { plain, templates } = this.#byName()
    const own = plain.get(name)
    if (own) return own
    const best = templates.find(each => name.startsWith(each.name.toLowerCase()))
    return best && renderTemplate(best, idOrName)
  }

  /** Anybody may ask for a name, over DNS as often as the network carries it: what is stored is sorted once a change. */
  #byName(): Names {
    const index = this.#tables.indexOf(['query'])
    if (this.#names?.index === index) return this.#names
    const all = this.#tables.preparedQueries().value
    const plain = all.filter(each => each.template.type === '' && each.name !== '')
    const templates = all.filter(each => each.template.type !== '').sort((a, b) => b.name.length - a.name.length)
    return (this.#names = { index, plain: new Map(plain.map(each => [each.name.toLowerCase(), each])), templates })
  }

  /** What the query of a name or id finds, for who asks by name alone; undefined when there is none. */
  answer(idOrName: string): { service: string; nodes: CheckServiceNode[]; datacenter: string; peerName: string; ttl: string } | undefined {
    const query = this.resolve(idOrName)
    if (!query) return undefined
    const { nodes, datacenter, peerName } = this.execute(query)
    return { service: query.service.service, nodes, datacenter, peerName, ttl: query.dns.ttl }
  }

  execute(query: PreparedQuery, options: ExecutionOptions = {}): Execution {
    const { service } = query
    const connect = options.connect ?? service.connect
    const placed = (nodes: CheckServiceNode[], peerName: string, failovers: number): Execution => ({
      query,
      nodes: options.limit ? nodes.slice(0, options.limit) : nodes,
      datacenter: peerName === '' ? this.#datacenter : '',
      peerName,
      failovers,
    })
    const own = this.#find(query, service.peer, connect)
    if (own.length > 0) return placed(own, service.peer, 0)
    let failovers = 0
    for (const target of this.#targets(query)) {
      failovers += 1
      const found = this.#find(query, target.peer, connect)
      if (found.length > 0) return placed(found, target.peer, failovers)
    }
    return placed([], service.peer, failovers)
  }

  /** Another datacenter than ours is never known: peers are not datacenters. */
  #targets(query: PreparedQuery): QueryTarget[] {
    const { targets, datacenters } = query.service.failover
    const all = targets ?? (datacenters ?? []).map((datacenter): QueryTarget => ({ peer: '', datacenter }))
    return all.filter(target => target.peer !== '' || target.datacenter.toLowerCase() === this.#datacenter)
  }

  #find(query: PreparedQuery, peer: string, connect: boolean): CheckServiceNode[] {
    const { service } = query
    const all = connect ? this.#tables.connectInstances(service.service, peer) : this.#tables.instances(service.service, peer)
    const ignored = new Set(service.ignoreCheckIds ?? [])
    const nodes = all.value.filter(
      instance =>
        isUsable(instance.checks, service.onlyPassing, ignored) &&
        hasMeta(instance.node.meta, service.nodeMeta) &&
        hasMeta(instance.service.meta, service.serviceMeta) &&
        hasTags(instance.service.tags, service.tags ?? []),
    )
    return service.near === '' ? shuffled(nodes) : nodes
  }

  #known(id: string): PreparedQuery {
    if (id.length !== idLength) throw badId()
    const query = this.#tables.preparedQuery(id).value
    if (!query) throw new MeshError('invalid', `Cannot modify non-existent prepared query: '${id}'`)
    return query
  }

  async #put(query: PreparedQuery, before: () => PreparedQuery | undefined): Promise<void> {
    checkQuery(query)
    await commit(this.#store, this.#tables, (): Proposal<void> => {
      const current = before()
      const compare: Compare[] = [
        unchanged(keys.query(query.id), current),
        ...this.#checkSession(query),
        ...this.#checkName(query, current),
      ]
      const kept = new Set(keys.ofQuery(query))
      const gone = current ? keys.ofQuery(current).filter(key => !kept.has(key)) : []
      const named = [...kept].filter(key => key !== keys.query(query.id) && !(current && keys.ofQuery(current).includes(key)))
      const ops: Op[] = [
        putRecord(keys.query(query.id), query),
        ...named.map(key => putRecord(key, { id: query.id })),
        ...gone.map((key): Op => ({ op: 'delete', key })),
      ]
      return { result: undefined, ops, compare: [...compare, ...named.map((key): Compare => ({ key, modRevision: 0 }))] }
    })
  }

  #checkSession(query: PreparedQuery): Compare[] {
    if (query.session === '') return []
    const session = this.#tables.session(query.session).value
    if (!session) throw failed(`invalid session ${JSON.stringify(query.session)}`)
    return [unchanged(keys.session(session.id), session)]
  }

  #checkName(query: PreparedQuery, current: PreparedQuery | undefined): Compare[] {
    const template = query.template.type !== ''
    const problem = checkTemplate(query)
    if (problem !== undefined) throw failed(`failed compiling template: ${problem}`)
    if (query.name === '' && !template) return []
    if (this.#tables.preparedQuery(query.name).value) throw failed(`name '${query.name}' aliases an existing query ID`)
    const name = query.name.toLowerCase()
    const other = this.#tables
      .preparedQueries()
      .value.find(each => each.id !== current?.id && (each.template.type !== '') === template && each.name.toLowerCase() === name)
    if (!other) return []
    throw failed(
      template ? `query template with prefix '${query.name}' already exists` : `name '${query.name}' aliases an existing query name`,
    )
  }
}

export function badId(): MeshError {
  return new MeshError('invalid', 'failed prepared query lookup: index error: UUID must be 36 characters')
}

function failed(what: string): MeshError {
  return new MeshError('invalid', `raft apply failed: ${what}`)
}

/** Everything that is wrong with a query by itself, in Consul's words. */
function checkQuery(query: PreparedQuery): void {
  const refuse = (what: string) => new MeshError('invalid', `Invalid prepared query: ${what}`)
  const { service, dns } = query
  if (service.samenessGroup !== '') throw refuse('sameness-groups are an enterprise-only feature')
  if (service.service === '') throw refuse('Must provide a Service name to query')
  const { nearestN, datacenters, targets } = service.failover
  if (nearestN < 0) throw refuse(`Bad NearestN '${nearestN}', must be >= 0`)
  if ((targets ?? []).length > 0 && (nearestN !== 0 || (datacenters ?? []).length > 0)) {
    throw refuse('Targets cannot be populated with NearestN or Datacenters')
  }
  if ((targets ?? []).some(target => target.partition)) throw refuse('Partitions are a Consul Enterprise feature')
  if (dns.ttl === '') return
  const ttl = parseDuration(dns.ttl)
  if (ttl === undefined) throw refuse(`Bad DNS TTL '${dns.ttl}': time: invalid duration ${JSON.stringify(dns.ttl)}`)
  if (ttl < 0) throw refuse(`DNS TTL '${dns.ttl}', must be >=0`)
}

/** Critical instances never count; warnings do unless only passing ones are asked for. */
function isUsable(checks: readonly HealthCheck[], onlyPassing: boolean, ignored: ReadonlySet<string>): boolean {
  return checks.every(({ checkId, status }) => ignored.has(checkId) || status === 'passing' || (status === 'warning' && !onlyPassing))
}

function hasMeta(meta: Record<string, string> | null, wanted: Record<string, string> | null): boolean {
  return Object.entries(wanted ?? {}).every(([key, value]) => meta !== null && Object.hasOwn(meta, key) && meta[key] === value)
}

/** All of them; one that begins with `!` must not be there. */
function hasTags(tags: readonly string[], wanted: readonly string[]): boolean {
  const have = new Set(tags.map(tag => tag.toLowerCase()))
  return wanted.every(tag => (tag.startsWith('!') ? !have.has(tag.slice(1).toLowerCase()) : have.has(tag.toLowerCase())))
}

function shuffled<T>(list: T[]): T[] {
  const out = [...list]
  for (let i = out.length - 1; i > 0; i -= 1) {
    const j = randomInt(i + 1)
    ;[out[i], out[j]] = [out[j]!, out[i]!]
  }
  return out
}
