/**
 * Sessions: made, renewed and ended. One ends with its time to live, its node, or any of its checks; its keys are then released or
 * deleted in the same transaction as far as one holds them, and no key stays locked by a session that is gone (spec/http-api.md 11).
 */
import { randomUUID } from 'node:crypto'
import type { Clock, Timer } from '../../lib/clock.ts'
import { formatDuration, parseDuration } from '../../lib/duration.ts'
import { messageOf, MeshError } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import { checksOf, sessionLimits, type Session } from '../../mesh/session.ts'
import type { Compare, Op, Store } from '../store/store.ts'
import { commit, putRecord, unchanged, type Proposal } from './commit.ts'
import { keys } from './keys.ts'
import type { LockDelays } from './lock-delays.ts'
import type { KvRecord, Tables } from './tables.ts'

export interface SessionsOptions {
  store: Store
  tables: Tables
  delays: LockDelays
  clock: Clock
  logger: Logger
}

export type NewSession = Omit<Session, 'id' | 'createIndex' | 'modifyIndex'>

/** What one transaction lets go of; the rest follows in others. */
const maxKeysAtOnce = 100
const maxBytesAtOnce = 700 * 1024
/** The store could not be written. */
const retryMs = 1000

export class Sessions {
  readonly #options: SessionsOptions
  readonly #timers = new Map<string, Timer>()
  #subscription: { close(): void } | undefined

  constructor(options: SessionsOptions) {
    this.#options = options
  }

  /** Gives every stored session its whole time again, and ends those whose reason to live went away meanwhile. Anew after a restore. */
  async start(): Promise<void> {
    const { tables } = this.#options
    this.close()
    for (const session of tables.sessions().value) this.#arm(session)
    for (const id of tables.lockHolders()) if (!tables.session(id).value) await this.#letGo(id)
    await this.#sweep()
    this.#subscription = tables.subscribe(
      () => ['nodes', 'checks'],
      () => void this.#sweep(),
    )
  }

  async create(request: NewSession): Promise<string> {
    const session = checkSession(request)
    const { store, tables } = this.#options
    await commit(store, tables, (): Proposal<void> => {
      const compare = this.#mustLive(session)
      return { result: undefined, ops: [putRecord(keys.session(session.id), session)], compare }
    })
    this.#arm(session)
    return session.id
  }

  /** Starts the time to live anew; undefined when there is no such session. */
  renew(id: string): Session | undefined {
    const session = this.#options.tables.session(id).value
    if (session) this.#arm(session)
    return session
  }

  /** Ends a session; one that is not there has ended. */
  async destroy(id: string): Promise<void> {
    const { store, tables, logger } = this.#options
    const ended = await commit(store, tables, (): Proposal<Session | undefined> => {
      const session = tables.session(id).value
      if (!session) return { result: undefined }
      const key = keys.session(session.id)
      const letting = this.#letting(session.id, session)
      return { result: session, ops: [{ op: 'delete', key }, ...letting.ops], compare: [unchanged(key, session), ...letting.compare] }
    })
    this.#timers.get(id)?.cancel()
    this.#timers.delete(id)
    if (!ended) return
    try {
      await this.#letGo(ended.id, ended)
    } catch (error) {
      logger.warn({ session: id, err: messageOf(error) }, 'a session has ended, but not all of its keys are released; trying again')
      this.#letGoLater(ended)
    }
  }

  close(): void {
    this.#subscription?.close()
    for (const timer of this.#timers.values()) timer.cancel()
    this.#timers.clear()
  }

  /** Throws what keeps the session from living; else the comparisons under which it may. */
  #mustLive(session: Session): Compare[] {
    const { tables } = this.#options
    const refuse = (text: string) => new MeshError('invalid', `apply failed: ${text}`)
    const node = tables.node(session.node).value
    if (!node) throw refuse('Missing node registration')
    const compare = [unchanged(keys.node(node.node), node)]
    for (const id of checksOf(session)) {
      const check = tables.checkOf(session.node, id)
      if (!check) throw refuse(`Missing check '${id}' registration`)
      if (check.status === 'critical') throw refuse(`Check '${id}' is in critical state`)
      compare.push(unchanged(keys.check(session.node, id), check))
    }
    return compare
  }

  /** A session lives for its time to live at least and twice that at most; we give it the most, as Consul does. */
  #arm(session: Session): void {
    const ttlMs = parseDuration(session.ttl) ?? 0
    if (ttlMs <= 0) return
    this.#timers.get(session.id)?.cancel()
    this.#timers.set(
      session.id,
      this.#options.clock.after(ttlMs * 2, () => this.#end(session.id, 'its time to live ran out')),
    )
  }

  async #sweep(): Promise<void> {
    const { tables } = this.#options
    for (const session of tables.sessions().value) {
      const lost =
        !tables.node(session.node).value ||
        checksOf(session).some(id => (tables.checkOf(session.node, id)?.status ?? 'critical') === 'critical')
      if (lost) await this.#endNow(session.id, 'its node or one of its checks is gone or critical')
    }
  }

  #end(id: string, why: string): void {
    void this.#endNow(id, why)
  }

  async #endNow(id: string, why: string): Promise<void> {
    const { logger } = this.#options
    try {
      await this.destroy(id)
      logger.info({ session: id, why }, 'session ended')
    } catch (error) {
      logger.warn({ session: id, err: messageOf(error) }, 'a session could not be ended; trying again')
      this.#timers.set(
        id,
        this.#options.clock.after(retryMs, () => this.#end(id, why)),
      )
    }
  }

  /** Nobody else would: the session is gone, and only this process knows what was to become of its keys. */
  #letGoLater(session: Session): void {
    this.#timers.set(
      session.id,
      this.#options.clock.after(retryMs, () => {
        this.#timers.delete(session.id)
        this.#letGo(session.id, session).catch(() => this.#letGoLater(session))
      }),
    )
  }

  /** Frees what a session that is gone still holds, and takes the prepared queries that it bound with it. */
  async #letGo(id: string, session?: Session): Promise<void> {
    const { store, tables } = this.#options
    while (tables.keysHeldBy(id).length > 0) await commit(store, tables, () => ({ result: undefined, ...this.#letting(id, session) }))
    for (const bound of tables.preparedQueries().value.filter(each => each.session === id)) {
      await commit(store, tables, (): Proposal<void> => {
        const query = tables.preparedQuery(bound.id).value
        if (query?.session !== id) return { result: undefined }
        const ops = keys.ofQuery(query).map((key): Op => ({ op: 'delete', key }))
        return { result: undefined, ops, compare: [unchanged(keys.query(query.id), query)] }
      })
    }
  }

  #letting(id: string, session: Session | undefined): { ops: Op[]; compare: Compare[] } {
    const { tables, delays } = this.#options
    const ops: Op[] = []
    const compare: Compare[] = []
    let bytes = 0
    for (const record of tables.keysHeldBy(id).slice(0, maxKeysAtOnce)) {
      bytes += record.value?.length ?? 0
      if (bytes > maxBytesAtOnce && ops.length > 0) break
      delays.start(record.key, session?.lockDelayMs ?? 0)
      ops.push(
        session?.behavior === 'delete' ? { op: 'delete', key: keys.kv(record.key) } : putRecord(keys.kv(record.key), released(record)),
      )
      compare.push(unchanged(keys.kv(record.key), record))
    }
    return { ops, compare }
  }
}

function released({ key: _key, session: _session, ...record }: KvRecord): object {
  return record
}

/** Everything that is wrong with a session by itself, in Consul's words. */
function checkSession(request: NewSession): Session {
  const refuse = (text: string) => new MeshError('invalid', text)
  const { behavior, ttl } = request
  if (!['', 'release', 'delete'].includes(behavior)) throw refuse(`Invalid Behavior setting '${behavior}'`)
  const ttlMs = ttl === '' ? 0 : parseDuration(ttl)
  if (ttlMs === undefined) throw refuse(`Session TTL '${ttl}' invalid: time: invalid duration ${JSON.stringify(ttl)}`)
  const { minTtlMs, maxTtlMs, maxLockDelayMs } = sessionLimits
  if (ttlMs !== 0 && (ttlMs < minTtlMs || ttlMs > maxTtlMs)) {
    throw refuse(
      `Invalid Session TTL '${Math.round(ttlMs * 1e6)}', must be between [${formatDuration(minTtlMs)}=${formatDuration(maxTtlMs)}]`,
    )
  }
  return {
    ...request,
    id: randomUUID(),
    behavior: behavior || 'release',
    lockDelayMs: Math.min(Math.max(request.lockDelayMs, 0), maxLockDelayMs),
    createIndex: 0,
    modifyIndex: 0,
  }
}
