/** The session that holds a lock: renewed in good time while it is open, and destroyed at its end, so that nobody waits for its time to live. */
import { setTimeout as delay } from 'node:timers/promises'
import type { AgentClient } from '../client.ts'

const ttlMs = 15_000
const renewMs = ttlMs / 2
const retryMs = 1000

export class LockSession {
  readonly #client: AgentClient
  readonly #closing = new AbortController()
  readonly id: string
  /** Resolves when the agent no longer knows it, or could not be told for so long that it has ended. */
  readonly ended: Promise<void>

  private constructor(client: AgentClient, id: string) {
    this.#client = client
    this.id = id
    this.ended = this.#renew()
  }

  /** `behavior`: what becomes of its keys at its end. */
  static async open(client: AgentClient, name: string, behavior: 'release' | 'delete'): Promise<LockSession> {
    const body = { Name: name, TTL: `${ttlMs / 1000}s`, Behavior: behavior }
    const { ID: id } = await client.json<{ ID: string }>('PUT', '/v1/session/create', { body })
    return new LockSession(client, id)
  }

  async #renew(): Promise<void> {
    const { signal } = this.#closing
    let renewedAt = performance.now()
    let pause = renewMs
    while (performance.now() - renewedAt < ttlMs) {
      try {
        await delay(pause, undefined, { signal })
        const askedAt = performance.now()
        // An agent that says nothing at all must not keep us longer than the session lives.
        const inTime = AbortSignal.any([signal, AbortSignal.timeout(Math.max(0, renewedAt + ttlMs - askedAt))])
        const { status } = await this.#client.call('PUT', `/v1/session/renew/${this.id}`, { signal: inTime }, [404])
        if (status === 404) return
        renewedAt = askedAt
        pause = renewMs
      } catch {
        if (signal.aborted) return
        pause = retryMs
      }
    }
  }

  async close(): Promise<void> {
    this.#closing.abort()
    await this.#client.call('PUT', `/v1/session/destroy/${this.id}`)
  }
}
