/**
 * Control of one proxy: follows the agent, compiles every whole set into a plan, keeps the leaf, and hands on what belongs together.
 * Nothing here is on the path of a request, and nothing that the agent does or stops doing takes the last good plan away.
 */
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { compile, type Plan } from '../mesh/plan.ts'
import { resourceKey } from '../mesh/plan.ts'
import { names, type Resource, type Roots, type Self } from '../mesh/snapshot.ts'
import { internalApi } from '../wire/internal-api.ts'
import { AgentClient, type AgentAddress } from './agent-client.ts'
import { ProxyCache } from './cache.ts'
import { Leaf } from './leaf.ts'
import type { ProxyMetrics } from './metrics.ts'
import { SnapshotClient } from './snapshot-client.ts'
import type { ProxyIdentity } from './tls.ts'

const maxKeysInLog = 16

export interface ControlOptions {
  proxyId: string
  kind: Self['kind']
  agent: AgentAddress
  cacheDir?: string | undefined
  logger: Logger
  metrics: ProxyMetrics
  /** Edits what the agent says before it is compiled (a gateway's own options). */
  adapt?: (self: Self) => Self
  /** A new plan or a new leaf. The identity is undefined until the first leaf, and of a gateway at which nothing ends. */
  onChange: (plan: Plan, identity: ProxyIdentity | undefined) => void
}

export class Control {
  readonly #options: ControlOptions
  readonly #agent: AgentClient
  readonly #client: SnapshotClient
  readonly #leaf: Leaf
  readonly #cache: ProxyCache | undefined
  readonly #abort = new AbortController()
  #plan: Plan | undefined
  /** What the plan was compiled from, as it was received. */
  #received: ReadonlyMap<string, Resource> = new Map()
  #problems = ''
  /** Wall clock at which a plan from disk was saved, while it is the one in force. */
  #savedAtMs: number | undefined

  constructor(options: ControlOptions) {
    const { proxyId, logger, metrics } = options
    this.#options = options
    const agent = (this.#agent = new AgentClient(options.agent))
    this.#cache = options.cacheDir === undefined ? undefined : new ProxyCache(options.cacheDir, proxyId, logger)
    this.#client = new SnapshotClient({ agent, proxyId, logger, onSet: (resources, revision) => this.#take(resources, revision, true) })
    this.#leaf = new Leaf({ agent, proxyId, logger, onLeaf: identity => this.#renewed(identity) })
    metrics.gauges.snapshotAgeSeconds = () => this.ageSeconds
    metrics.gauges.agentConnected = () => (this.#client.connected ? 1 : 0)
    metrics.gauges.leafExpirySeconds = () => (this.#leaf.identity ? (this.#leaf.identity.validBeforeMs - Date.now()) / 1000 : 0)
  }

  get plan(): Plan | undefined {
    return this.#plan
  }

  get identity(): ProxyIdentity | undefined {
    return this.#leaf.identity
  }

  get connected(): boolean {
    return this.#client.connected
  }

  /** Why the agent is not followed; empty while it is. */
  get problem(): string {
    return this.#client.problem
  }

  /** Seconds since the agent last confirmed what is in force; a plan from disk counts from when it was saved. */
  get ageSeconds(): number {
    const { lastHeardMs } = this.#client
    if (this.#savedAtMs !== undefined) return Math.max(0, (Date.now() - this.#savedAtMs) / 1000)
    return lastHeardMs === undefined ? 0 : (performance.now() - lastHeardMs) / 1000
  }

  start(): void {
    const leaf = this.#cache?.loadLeaf()
    if (leaf) this.#leaf.adopt(leaf)
    const saved = this.#cache?.loadResources()
    if (saved) {
      this.#savedAtMs = saved.savedAtMs
      this.#options.logger.info(
        { ageSeconds: Math.round(this.ageSeconds), revision: saved.revision },
        'serving the plan from disk until the agent answers',
      )
      this.#take(saved.resources, saved.revision, false)
    }
    this.#client.start()
  }

  /** The agent need not wait for its next look. One that is not there looks when it comes. */
  async serves(): Promise<void> {
    const { proxyId, logger } = this.#options
    try {
      await this.#agent.put(internalApi.serving(proxyId), {}, this.#abort.signal)
    } catch (error) {
      logger.debug({ error: messageOf(error) }, 'the agent was not told that this proxy serves; its next check finds out')
    }
  }

  close(): void {
    this.#abort.abort()
    this.#client.close()
    this.#leaf.close()
  }

  #take(received: ReadonlyMap<string, Resource>, revision: number, fromAgent: boolean): void {
    const { kind, logger, adapt, onChange } = this.#options
    const changed = this.#plan && changedKeys(this.#received, received)
    if (changed?.length === 0) {
      // An agent that came back and has nothing new to say: all that is new is that it was said.
      if (fromAgent) this.#confirmed(received, revision)
      return
    }
    logger.debug({ revision, changed: changed?.slice(0, maxKeysInLog) }, 'a new snapshot')
    const resources = adapt ? adapted(received, adapt) : received
    let plan: Plan | undefined
    try {
      plan = compile(resources, this.#plan, revision)
    } catch (error) {
      logger.error({ error: messageOf(error), revision }, 'a snapshot cannot be compiled; the last plan stays')
      return
    }
    if (!plan || (plan.kind === 'sidecar') !== (kind === 'sidecar')) {
      logger.error(
        { revision, wanted: kind },
        'the agent has this proxy registered as another kind; register it as the kind that was started',
      )
      return
    }
    this.#plan = plan
    this.#received = received
    if (fromAgent) this.#confirmed(received, revision)
    const problems = plan.problems.join('; ')
    if (problems !== this.#problems && problems !== '') logger.warn({ problems: plan.problems }, 'parts of the snapshot were refused')
    this.#problems = problems
    const local = resources.get(resourceKey({ kind: 'roots', name: names.localRoots }))?.value as Roots | undefined
    // A gateway that only passes TLS through proves nothing to anyone, so it holds no key.
    if (plan.kind === 'sidecar' || plan.upstreams.size > 0) this.#leaf.want(plan.self.spiffeId, local?.pems ?? [])
    onChange(plan, this.#usableIdentity(plan))
  }

  #confirmed(received: ReadonlyMap<string, Resource>, revision: number): void {
    this.#savedAtMs = undefined
    this.#cache?.saveResources(received, revision)
  }

  #renewed(identity: ProxyIdentity): void {
    this.#cache?.saveLeaf(identity)
    if (this.#plan) this.#options.onChange(this.#plan, this.#usableIdentity(this.#plan))
  }

  /** A leaf for another id (the proxy was registered for another service since) is no identity. */
  #usableIdentity(plan: Plan): ProxyIdentity | undefined {
    const identity = this.#leaf.identity
    return identity?.uri === plan.self.spiffeId ? identity : undefined
  }
}

/** Of resources that came, went or have another content. Equal content has an equal version, whoever tells it. */
function changedKeys(before: ReadonlyMap<string, Resource>, after: ReadonlyMap<string, Resource>): string[] {
  const changed = [...after].filter(([key, { version }]) => before.get(key)?.version !== version).map(([key]) => key)
  for (const key of before.keys()) if (!after.has(key)) changed.push(key)
  return changed
}

function adapted(received: ReadonlyMap<string, Resource>, adapt: (self: Self) => Self): ReadonlyMap<string, Resource> {
  const resources = new Map(received)
  for (const [key, resource] of received) {
    if (resource.kind === 'self' && resource.value !== null) resources.set(key, { ...resource, value: adapt(resource.value) })
  }
  return resources
}
