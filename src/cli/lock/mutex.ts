/** A lock that one holds at a time, as Consul's clients make it: a key that carries a flag of its own and the holder's session. */
import { setTimeout as delay } from 'node:timers/promises'
import type { AgentClient } from '../client.ts'
import { CliError } from '../context.ts'
import { keyPath, type KvView } from '../kv-api.ts'
import { lockDelayRetryMs, read, unlessAborted, whileOurs, type Locking } from './locking.ts'

/** Consul's LockFlagValue: tells its locks from other keys. */
const lockFlags = '3304740253564472344'

export class Mutex implements Locking {
  readonly #client: AgentClient
  readonly #session: string
  readonly path: string
  readonly what: string

  constructor(client: AgentClient, prefix: string, session: string) {
    this.#client = client
    this.#session = session
    this.path = `${prefix}/.lock`
    this.what = `lock at path: ${this.path}`
  }

  async acquire(signal: AbortSignal): Promise<boolean> {
    const attempt = async () => {
      let index: string | undefined
      for (;;) {
        const before = await this.#look({ index }, signal)
        if (before.view?.Session === this.#session) return true
        index = before.index
        if (before.view?.Session) continue
        if (await this.#put('acquire', signal)) return true
        const after = await this.#look({}, signal)
        index = after.view?.Session ? after.index : undefined
        if (index === undefined) await delay(lockDelayRetryMs, undefined, { signal })
      }
    }
    return (await unlessAborted(signal, attempt)) ?? false
  }

  lost(signal: AbortSignal, retries: number): Promise<void> {
    const look = async (index: string | undefined) => {
      const { view, index: next } = await this.#look({ index, consistent: '' }, signal)
      return { ours: view?.Session === this.#session, index: next }
    }
    return whileOurs(look, signal, retries)
  }

  async release(): Promise<void> {
    await this.#put('release')
  }

  async cleanUp(): Promise<boolean> {
    const { view } = await this.#look({ consistent: '' })
    if (!view) return true
    if (view.Session) return false
    return this.#client.json<boolean>('DELETE', keyPath(this.path), { query: { cas: view.ModifyIndex } })
  }

  #put(how: 'acquire' | 'release', signal?: AbortSignal): Promise<boolean> {
    const query = { [how]: this.#session, flags: lockFlags }
    return this.#client.json<boolean>('PUT', keyPath(this.path), { query, body: Buffer.alloc(0), signal })
  }

  async #look(query: Record<string, string | undefined>, signal?: AbortSignal): Promise<{ view: KvView | undefined; index: string }> {
    const { views, index } = await read(this.#client, this.path, query, signal)
    const [view] = views
    if (view && String(view.Flags) !== lockFlags) throw new CliError('Existing key does not match lock use')
    return { view, index }
  }
}
