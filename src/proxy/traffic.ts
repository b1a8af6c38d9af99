/**
 * What one upstream has under way and what may be: circuit limits, the budget of retries, who is left out, and what of it is counted.
 * A `Call` is the request that a connection of the app has under way; every count that it begins is ended by its `end`, however it went.
 */
import { Circuit } from '../mesh/balance/circuit.ts'
import type { RetryLimits } from '../mesh/balance/config.ts'
import type { Load } from '../mesh/balance/load.ts'
import { Outlier, type EjectionCause } from '../mesh/balance/outlier.ts'
import type { Affinity } from '../mesh/balance/request-hash.ts'
import { RetryBudget } from '../mesh/balance/retry-budget.ts'
import type { UpstreamPlan } from '../mesh/plan.ts'
import { addressOf, type Endpoint } from '../mesh/snapshot.ts'
import type { ConnectFailure, Outcome, Refused, Retry, RetryCause } from './http1/door.ts'
import { resetText } from './http1/writer.ts'
import type { CircuitLimit, ProxyMetrics, RetryOutcome, Tally } from './metrics.ts'

/** Connections to a gateway, at least: it pins each of them to one instance, and an importer does not see instances. */
export const gatewaySessions = 4

/** Envoy's word (and response flag UO) for what is over a circuit limit. */
export const overflow: ConnectFailure = { reset: 'overflow' }
/** The same for a request that is not even begun. */
export const tooMany: Refused = { ok: false, status: 503, body: resetText(overflow.reset), reason: overflow.reset }

export class Traffic {
  readonly circuit: Circuit
  readonly budget: RetryBudget
  readonly outlier: Outlier
  readonly retries: Readonly<Record<RetryOutcome, Tally>>
  readonly #overflows: Readonly<Record<CircuitLimit, Tally>>
  readonly #ejections: Readonly<Record<EjectionCause, Tally>>
  #plan: UpstreamPlan

  constructor(plan: UpstreamPlan, metrics: ProxyMetrics) {
    const { name } = plan
    this.#plan = plan
    this.circuit = new Circuit(plan.limits)
    this.budget = new RetryBudget(plan.retry)
    this.outlier = new Outlier()
    this.#overflows = {
      connections: metrics.overflows(name, 'connections'),
      pending: metrics.overflows(name, 'pending'),
      requests: metrics.overflows(name, 'requests'),
    }
    this.#ejections = {
      unreachable: metrics.ejections(name, 'unreachable'),
      'app-unreached': metrics.ejections(name, 'app-unreached'),
      responses: metrics.ejections(name, 'responses'),
    }
    this.retries = {
      ok: metrics.retries(name, 'ok'),
      failed: metrics.retries(name, 'failed'),
      'over-budget': metrics.retries(name, 'over-budget'),
    }
    this.update(plan)
  }

  get plan(): UpstreamPlan {
    return this.#plan
  }

  update(plan: UpstreamPlan): void {
    this.#plan = plan
    this.circuit.update(plan.limits)
    this.budget.update(plan.retry)
    this.outlier.update(plan.outlier, new Set(plan.endpoints.map(addressOf)))
    for (const endpoint of plan.endpoints) if (!endpoint.healthy) this.outlier.down(addressOf(endpoint))
  }

  over(limit: CircuitLimit): ConnectFailure {
    this.#overflows[limit].count += 1
    return overflow
  }

  failed(address: string): void {
    if (this.outlier.failed(address)) this.#ejections.unreachable.count += 1
  }

  /**
   * One of us could not reach its app. Behind a peer's gateway there are as many as the peer says, and several ways to each, of which one that
   * says it again and again is still only one.
   */
  unreached(endpoint: Endpoint, news: boolean): void {
    const { resource, instances = 1 } = this.#plan
    const ways = resource.peer === '' || instances < 2 ? 1 : Math.max(gatewaySessions, instances)
    if (ways > 1 && !news) return
    if (this.outlier.unreached(addressOf(endpoint), ways)) this.#ejections['app-unreached'].count += 1
  }

  erred(endpoint: Endpoint): void {
    if (this.outlier.erred(endpoint)) this.#ejections.responses.count += 1
  }
}

const noneTried: ReadonlySet<string> = new Set()

/** One object for all requests of a connection, one after another. */
export class Call implements Retry, Affinity {
  /** Of the request, where the policy wants one. */
  hash: number | undefined
  setCookie = ''
  /** Ends a wait for a connection that this request does not need any more. */
  giveUp: (() => void) | undefined
  /** What the route of the request says, instead of the upstream. */
  retry: RetryLimits | undefined
  /** Where it went no app could be reached, and it is to go elsewhere. */
  moving = false
  /** Another number for every try, so that what comes late for one is not taken for the next. */
  turn = 0
  readonly #traffic: Traffic
  /** Where it went; undefined while there is no stream for it. */
  #endpoint: Endpoint | undefined
  #load: Load | undefined
  #begunMs = 0
  #admitted = false
  #retrying = false
  /** The budget has a place for it. */
  #charged = false

  constructor(traffic: Traffic) {
    this.#traffic = traffic
  }

  get retries(): number {
    return this.#limits.retries
  }

  get perTryMs(): number {
    return this.#limits.perTryMs
  }

  get statuses(): readonly number[] {
    return this.#limits.statuses
  }

  /** The address that the last try went to: another one is the better choice. */
  get tried(): ReadonlySet<string> {
    return this.#endpoint === undefined ? noneTried : new Set([addressOf(this.#endpoint)])
  }

  /** False when one more request would be too many. */
  begin(): boolean {
    this.turn += 1
    this.moving = false
    this.hash = undefined
    if (this.setCookie !== '') this.setCookie = ''
    this.#admitted = this.#traffic.circuit.beginRequest()
    return this.#admitted
  }

  /** The try of this turn has a stream to this endpoint. */
  to(endpoint: Endpoint, turn: number): void {
    if (turn !== this.turn) return
    this.#endpoint = endpoint
    this.moving = false
    const { loads } = this.#traffic.plan.picker
    if (loads === undefined) return
    this.#load = loads.of(endpoint)
    this.#load?.begin()
    this.#begunMs = performance.now()
  }

  allow(cause: RetryCause): boolean {
    const { budget, circuit, retries } = this.#traffic
    // The first after a broken stream is free: a gateway that dies takes all that is under way with it, and one more try is no storm.
    const charged = cause !== 'broken' || this.#retrying
    if (charged && !this.#charged && !(this.#charged = budget.begin(circuit.requests))) {
      retries['over-budget'].count += 1
      return false
    }
    if (this.#retrying) retries.failed.count += 1
    this.#retrying = true
    // A stream that broke says less: it may have been idle for too long.
    this.#settle(true, cause !== 'broken')
    this.#leave()
    return true
  }

  /** It cost its server next to nothing, so the budget has no part in it. */
  unreached(again: boolean, news: boolean): void {
    if (this.#endpoint !== undefined) this.#traffic.unreached(this.#endpoint, news)
    if (!again) return
    if (this.#retrying) this.#traffic.retries.failed.count += 1
    this.#retrying = this.moving = true
    this.#settle(true, false)
    this.#leave()
  }

  /** Its outcome is known, and its stream was given back. */
  end({ status, source }: Outcome): void {
    const { budget, circuit, retries } = this.#traffic
    const failed = source === 'upstream' || (source === 'app' && status >= 500)
    this.#settle(failed, failed)
    if (source === 'app' && !failed && this.#endpoint !== undefined) this.#traffic.outlier.answered(this.#endpoint)
    const freed = this.#endpoint !== undefined
    this.#endpoint = undefined
    if (this.#retrying) {
      this.#retrying = false
      retries[failed ? 'failed' : 'ok'].count += 1
    }
    if (this.#charged) {
      this.#charged = false
      budget.end()
    }
    this.#leave()
    if (!this.#admitted) return
    this.#admitted = false
    circuit.endRequest()
    if (freed) circuit.freed()
  }

  /** One try is over. */
  #settle(failed: boolean, erred: boolean): void {
    const now = this.#load === undefined ? 0 : performance.now()
    this.#load?.end(now - this.#begunMs, failed, now)
    this.#load = undefined
    if (erred && this.#endpoint !== undefined) this.#traffic.erred(this.#endpoint)
  }

  /** What was under way for this try is nobody's. */
  #leave(): void {
    this.turn += 1
    if (this.giveUp !== undefined) this.giveUp()
  }

  get #limits(): RetryLimits {
    return this.retry ?? this.#traffic.plan.retry
  }
}
