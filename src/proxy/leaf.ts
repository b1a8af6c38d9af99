/**
 * The proxy's own leaf: a key made here, a CSR signed by the agent, renewed at a random point of 60..90 % of its life, within 30 s
 * of a change of the own roots, and at once when its chain no longer reaches any of them. A leaf is used only if it is for our key,
 * carries exactly our id and is in date; until a better one is there the last one stays.
 */
import { createHash, createPrivateKey, createPublicKey, X509Certificate, type KeyObject } from 'node:crypto'
import { Backoff } from '../lib/backoff.ts'
import { systemClock, type Clock, type Timer } from '../lib/clock.ts'
import { MeshError, messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { decode, encode } from '../lib/shape.ts'
import { internalApi, SignRequest, SignResponse } from '../wire/internal-api.ts'
import type { AgentClient } from './agent-client.ts'
import { createCsr, createKey } from './csr.ts'
import { chainHolds, readBundle, uriOf } from './permit.ts'
import type { ProxyIdentity } from './tls.ts'

const rootChangeJitterMs = 30_000

export interface LeafOptions {
  agent: Pick<AgentClient, 'put'>
  proxyId: string
  logger: Logger
  onLeaf: (identity: ProxyIdentity) => void
  clock?: Clock
  /** Draws in [0, 1). */
  random?: () => number
}

export class Leaf {
  readonly #options: LeafOptions
  readonly #clock: Clock
  readonly #random: () => number
  readonly #backoff = new Backoff({ firstMs: 250, maxMs: 30_000, jitter: 0.5 })
  readonly #abort = new AbortController()
  #identity: ProxyIdentity | undefined
  #uri = ''
  #roots: readonly string[] = []
  #timer: Timer | undefined
  #dueMs = Infinity
  #busy = false
  #again = false

  constructor(options: LeafOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
    this.#random = options.random ?? Math.random
  }

  get identity(): ProxyIdentity | undefined {
    return this.#identity
  }

  /** Who this proxy must be and which roots are its own cluster's. Called with every plan. */
  want(uri: string, rootPems: readonly string[]): void {
    const rootsChanged = this.#roots.join() !== rootPems.join()
    this.#uri = uri
    this.#roots = rootPems
    const identity = this.#identity
    if (!identity || identity.uri !== uri || !this.#holds(identity)) this.#renewIn(0)
    else if (rootsChanged) this.#renewIn(this.#random() * rootChangeJitterMs)
  }

  /** Starts with a leaf from disk, if it can still be used for this id. */
  adopt(identity: ProxyIdentity): boolean {
    const problem = problemOf(identity, identity.uri, this.#clock.nowMs())
    if (problem !== undefined) return false
    this.#take(identity)
    return true
  }

  close(): void {
    this.#abort.abort()
    this.#timer?.cancel()
  }

  #holds(identity: ProxyIdentity): boolean {
    return chainHolds(readBundle([identity.certPem]), readBundle(this.#roots), this.#clock.nowMs())
  }

  #renewIn(ms: number): void {
    const dueMs = this.#clock.monotonicMs() + ms
    if (this.#busy) {
      this.#again ||= ms === 0
      return
    }
    if (dueMs >= this.#dueMs || this.#abort.signal.aborted) return
    this.#schedule(ms)
  }

  #schedule(ms: number): void {
    this.#timer?.cancel()
    this.#dueMs = this.#clock.monotonicMs() + ms
    this.#timer = this.#clock.after(ms, () => void this.#renew())
  }

  async #renew(): Promise<void> {
    this.#busy = true
    this.#again = false
    this.#dueMs = Infinity
    try {
      this.#take(await this.#sign(this.#uri))
      this.#backoff.reset()
    } catch (error) {
      if (this.#abort.signal.aborted) return
      const waitMs = Math.round(this.#backoff.nextMs())
      this.#options.logger.warn({ error: messageOf(error), retryMs: waitMs }, 'no new leaf from the agent; retrying')
      this.#schedule(waitMs)
    } finally {
      this.#busy = false
    }
    const identity = this.#identity
    if (this.#again && identity && (identity.uri !== this.#uri || !this.#holds(identity))) this.#renewIn(Math.round(this.#backoff.nextMs()))
  }

  async #sign(uri: string): Promise<ProxyIdentity> {
    const key = await createKey()
    const { agent, proxyId } = this.#options
    const answer = await agent.put(internalApi.sign(proxyId), encode(SignRequest, { csr: createCsr(key, uri) }), this.#abort.signal)
    const signed = decode(SignResponse, answer)
    if (!signed.ok)
      throw new MeshError('invalid', `the agent's answer is no signed leaf: ${signed.issues[0]?.path} ${signed.issues[0]?.message}`)
    const identity = identityOf(signed.value.certPem, key)
    const problem = problemOf(identity, uri, this.#clock.nowMs())
    if (problem !== undefined) throw new MeshError('invalid', `the agent signed a leaf that ${problem}`)
    return identity
  }

  #take(identity: ProxyIdentity): void {
    if (this.#abort.signal.aborted) return
    this.#identity = identity
    const lifeMs = identity.validBeforeMs - identity.validAfterMs
    const renewAtMs = identity.validAfterMs + lifeMs * (0.6 + 0.3 * this.#random())
    this.#schedule(Math.max(1000, renewAtMs - this.#clock.nowMs()))
    this.#options.onLeaf(identity)
  }
}

/** Reads a leaf and its key into what the proxy uses. Throws on text that is neither. */
export function identityOf(certPem: string, key: KeyObject): ProxyIdentity {
  const leaf = new X509Certificate(certPem)
  return {
    uri: uriOf(leaf) ?? '',
    certPem,
    keyPem: key.export({ type: 'sec1', format: 'pem' }).toString(),
    generation: createHash('sha256').update(leaf.raw).digest('hex'),
    validAfterMs: Date.parse(leaf.validFrom),
    validBeforeMs: Date.parse(leaf.validTo),
  }
}

/** Why a leaf cannot be ours; undefined when it can. */
function problemOf(identity: ProxyIdentity, uri: string, nowMs: number): string | undefined {
  if (identity.uri !== uri || uri === '') return 'does not carry our id'
  const leaf = new X509Certificate(identity.certPem)
  const key = createPublicKey(createPrivateKey(identity.keyPem))
  if (!leaf.publicKey.equals(key)) return 'is not for our key'
  return nowMs < identity.validBeforeMs ? undefined : 'has expired'
}
