/**
 * Follows the snapshot stream of one proxy: NDJSON lines, gathered until a `sync` says that they belong together, then handed on as
 * one whole set. A line is hostile until its schema has taken it; a stream that breaks a rule is dropped and opened again with
 * backoff, and what was known stays in force. Silence is noticed, because a `sync` comes every few seconds.
 */
import { StringDecoder } from 'node:string_decoder'
import type { ClientRequest, IncomingMessage } from 'node:http'
import * as z from 'zod'
import { Backoff } from '../lib/backoff.ts'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { resourceKey } from '../mesh/plan.ts'
import { resourceKinds, type Resource, type ResourceKind } from '../mesh/snapshot.ts'
import { internalApi, snapshotHeartbeatMs } from '../wire/internal-api.ts'
import type { AgentClient } from './agent-client.ts'

export const snapshotLimits = {
  maxLineLength: 4 * 1024 * 1024,
  maxResources: 100_000,
  /** No line for so long, and the agent is taken for gone. */
  silenceMs: snapshotHeartbeatMs * 5,
} as const

const Line = z.object({
  kind: z.string().max(64),
  name: z.string().max(1024),
  version: z.string().max(1024),
  value: z.unknown(),
})
const Sync = z.object({ kind: z.literal('sync'), revision: z.number() })

/** One line as a resource, a sync or (a kind of a later version) nothing. Throws on anything else. */
export function parseLine(text: string): Resource | { kind: 'sync'; revision: number } | undefined {
  const json: unknown = JSON.parse(text)
  if (typeof json === 'object' && json !== null && (json as { kind?: unknown }).kind === 'sync') return Sync.parse(json)
  const line = Line.parse(json)
  if (!Object.hasOwn(resourceKinds, line.kind)) return undefined
  const kind = line.kind as ResourceKind
  const value = line.value === null ? null : resourceKinds[kind].parse(line.value)
  return { kind, name: line.name, version: line.version, value } as Resource
}

export interface SnapshotClientOptions {
  agent: AgentClient
  proxyId: string
  logger: Logger
  /** A whole, consistent set. Called for every sync that changed something and for the first of each connection. */
  onSet: (resources: ReadonlyMap<string, Resource>, revision: number) => void
  backoff?: Backoff
}

export class SnapshotClient {
  readonly #options: SnapshotClientOptions
  readonly #backoff: Backoff
  #request: ClientRequest | undefined
  #retry: NodeJS.Timeout | undefined
  #silence: NodeJS.Timeout | undefined
  #closed = false
  /** Monotonic time of the last line; undefined before the first. */
  lastHeardMs: number | undefined
  connected = false
  /** Why the agent is not followed just now. */
  problem = 'not connected yet'

  constructor(options: SnapshotClientOptions) {
    this.#options = options
    this.#backoff = options.backoff ?? new Backoff({ firstMs: 200, maxMs: 10_000, jitter: 0.5 })
  }

  start(): void {
    const { agent, proxyId } = this.#options
    let over = false
    const end = (problem: string) => {
      if (over) return
      over = true
      request.destroy()
      this.#lost(problem)
    }
    const request = agent.stream(
      internalApi.snapshot(proxyId),
      answer => {
        if (answer.statusCode === 200) return this.#follow(answer, end)
        answer.resume()
        const known =
          answer.statusCode === 404 ? `${proxyId} is not registered with the agent: register it` : `the agent answered ${answer.statusCode}`
        end(known)
      },
      end,
    )
    this.#request = request
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#retry)
    clearTimeout(this.#silence)
    this.#request?.destroy()
  }

  #lost(problem: string): void {
    clearTimeout(this.#silence)
    if (this.#closed) return
    const waitMs = Math.round(this.#backoff.nextMs())
    if (this.connected || this.problem !== problem)
      this.#options.logger.warn({ problem, retryMs: waitMs }, 'not following the agent; the last plan stays')
    this.connected = false
    this.problem = problem
    this.#retry = setTimeout(() => this.start(), waitMs)
    this.#retry.unref()
  }

  #follow(answer: IncomingMessage, end: (problem: string) => void): void {
    // The request's own timeout was for the answer to begin; from here silence is measured in lines.
    answer.socket.setTimeout(0)
    const decoder = new StringDecoder('utf8')
    const set = new StagedSet()
    let rest = ''
    const heard = () => {
      this.lastHeardMs = performance.now()
      clearTimeout(this.#silence)
      this.#silence = setTimeout(() => end('the agent is silent'), snapshotLimits.silenceMs)
      this.#silence.unref()
    }
    heard()
    answer.on('data', (chunk: Buffer) => {
      rest += decoder.write(chunk)
      let from = 0
      try {
        for (let at = rest.indexOf('\n'); at >= 0; at = rest.indexOf('\n', from)) {
          if (at > from) this.#line(rest.slice(from, at), set)
          from = at + 1
        }
        rest = from === 0 ? rest : rest.slice(from)
        if (rest.length > snapshotLimits.maxLineLength) throw new Error('a line is too long')
      } catch (error) {
        return end(`the agent sent what cannot be read: ${messageOf(error).slice(0, 512)}`)
      }
      if (from > 0) heard()
    })
    answer.on('error', error => end(messageOf(error)))
    answer.on('close', () => end('the agent closed the stream'))
  }

  #line(text: string, set: StagedSet): void {
    if (this.#closed) return
    if (text.length > snapshotLimits.maxLineLength) throw new Error('a line is too long')
    const line = parseLine(text)
    if (line === undefined) return
    if (line.kind !== 'sync') return set.put(line)
    const first = !this.connected
    this.connected = true
    this.problem = ''
    this.#backoff.reset()
    if (first) this.#options.logger.info({ revision: line.revision }, 'following the agent')
    if (set.seal() || first) this.#options.onSet(set.resources, line.revision)
  }
}

/** What a connection has said so far: nothing of an earlier one is kept, so that what is gone is gone. */
class StagedSet {
  resources: ReadonlyMap<string, Resource> = new Map()
  #staged = new Map<string, Resource>()
  #changed = false
  #sealed = false

  put(resource: Resource): void {
    if (this.#sealed) {
      this.#staged = new Map(this.resources)
      this.#sealed = false
    }
    const key = resourceKey(resource)
    if (resource.value === null) this.#staged.delete(key)
    else this.#staged.set(key, resource)
    if (this.#staged.size > snapshotLimits.maxResources) throw new Error('too many resources')
    this.#changed = true
  }

  /** The set is whole; true when it differs from the last. The map handed out is never changed afterwards. */
  seal(): boolean {
    const changed = this.#changed
    if (!this.#sealed) this.resources = this.#staged
    this.#sealed = true
    this.#changed = false
    return changed
  }
}
