/**
 * A lock that several hold at a time, as Consul's clients make it: each contender has a key with its session, and one key names the
 * limit and the holders, changed only by compare-and-set. Holders whose contender key has lost its session do not count.
 */
import type { AgentClient } from '../client.ts'
import { CliError } from '../context.ts'
import { keyPath, type KvView } from '../kv-api.ts'
import { read, unlessAborted, whileOurs, type Locking } from './locking.ts'

/** Consul's SemaphoreFlagValue. */
const semaphoreFlags = '16210313421097356768'

interface State {
  /** Of the key that names the holders; 0 where there is none. */
  modifyIndex: number
  holders: string[]
  contends: boolean
  index: string
}

export class Semaphore implements Locking {
  readonly #client: AgentClient
  readonly #session: string
  readonly #limit: number
  readonly #prefix: string
  readonly path: string
  readonly what: string

  constructor(client: AgentClient, prefix: string, session: string, limit: number) {
    this.#client = client
    this.#session = session
    this.#limit = limit
    this.#prefix = prefix
    this.path = `${prefix}/.lock`
    this.what = `semaphore (limit ${limit}) at prefix: ${prefix}`
  }

  async acquire(signal: AbortSignal): Promise<boolean> {
    const attempt = async () => {
      const query = { acquire: this.#session, flags: semaphoreFlags }
      if (!(await this.#client.json<boolean>('PUT', this.#contender(), { query, body: Buffer.alloc(0), signal }))) {
        throw new CliError('failed to make contender entry')
      }
      let index: string | undefined
      for (;;) {
        const state = await this.#look({ index }, signal)
        const free = state.holders.length < this.#limit
        if (free && (await this.#write(state, [...state.holders, this.#session]))) return true
        // Somebody was faster: what there is now is read at once.
        index = free ? undefined : state.index
      }
    }
    return (await unlessAborted(signal, attempt)) ?? false
  }

  lost(signal: AbortSignal, retries: number): Promise<void> {
    const look = async (index: string | undefined) => {
      const state = await this.#look({ index, consistent: '' }, signal)
      return { ours: state.contends && state.holders.includes(this.#session), index: state.index }
    }
    return whileOurs(look, signal, retries)
  }

  async release(): Promise<void> {
    for (;;) {
      const state = await this.#look({ consistent: '' })
      if (!state.holders.includes(this.#session)) break
      const others = state.holders.filter(each => each !== this.#session)
      if (await this.#write(state, others)) break
    }
    await this.#client.call('DELETE', this.#contender())
  }

  async cleanUp(): Promise<boolean> {
    const { holders, modifyIndex } = await this.#look({ consistent: '' })
    if (modifyIndex === 0) return true
    if (holders.length > 0) return false
    return this.#client.json<boolean>('DELETE', keyPath(this.path), { query: { cas: modifyIndex } })
  }

  #contender(): string {
    return keyPath(`${this.#prefix}/${this.#session}`)
  }

  #write({ modifyIndex }: State, holders: string[]): Promise<boolean> {
    const body = { Limit: this.#limit, Holders: Object.fromEntries(holders.map(each => [each, true])) }
    return this.#client.json<boolean>('PUT', keyPath(this.path), { query: { cas: modifyIndex, flags: semaphoreFlags }, body })
  }

  async #look(query: Record<string, string | undefined>, signal?: AbortSignal): Promise<State> {
    const { views, index } = await read(this.#client, `${this.#prefix}/`, { ...query, recurse: '' }, signal)
    const lock = views.find(view => view.Key === this.path)
    const alive = new Set(views.filter(view => view !== lock).map(view => view.Session))
    const holders = lock ? this.#holders(lock).filter(each => alive.has(each)) : []
    return { modifyIndex: lock?.ModifyIndex ?? 0, holders, contends: alive.has(this.#session), index }
  }

  #holders(lock: KvView): string[] {
    if (String(lock.Flags) !== semaphoreFlags) throw new CliError('Existing key does not match semaphore use')
    const { Limit: limit, Holders: holders } = this.#client.parse(Buffer.from(lock.Value ?? '', 'base64')) as {
      Limit: number
      Holders: Record<string, boolean> | null
    }
    if (limit !== this.#limit) throw new CliError(`semaphore limit conflict (lock: ${limit}, local: ${this.#limit})`)
    return Object.keys(holders ?? {})
  }
}
