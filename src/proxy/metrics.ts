/**
 * Every metric of the data plane. Label sets are closed: they name upstreams of this proxy's own plan, status classes and the
 * decisions listed here, never a path, a peer that was not registered here or anything that a caller chooses. The hot path adds to
 * plain numbers that are resolved beforehand; prom-client reads them when it is scraped.
 */
import { Counter, createRegistry, Gauge, type Registry } from '../lib/metrics.ts'
import type { EjectionCause } from '../mesh/balance/outlier.ts'

/** A number that only grows. */
export interface Tally {
  count: number
}

export type StatusClass = '1xx' | '2xx' | '3xx' | '4xx' | '5xx' | 'none'
export type DecisionLabel = 'allow' | 'audit' | 'deny-intention' | 'deny-default' | 'deny-peer-default' | 'deny-identity' | 'malformed'
export type Door = 'inbound' | 'outbound' | 'gateway' | 'expose'
export type CircuitLimit = 'connections' | 'pending' | 'requests'
export type RetryOutcome = 'ok' | 'failed' | 'over-budget'
export type RefusalReason =
  | 'tls'
  | 'no-certificate'
  | 'no-identity'
  | 'unknown-trust-domain'
  | 'untrusted'
  | 'limit'
  | 'not-ready'
  | 'not-tls'
  | 'malformed'
  | 'too-long'
  | 'no-server-name'
  | 'unknown-server-name'
  | 'timeout'
  | 'no-endpoint'

/** What the requests of one upstream (or of the app: `''`) are counted in; index by status class. */
export interface RequestTallies {
  byClass: readonly [Tally, Tally, Tally, Tally, Tally, Tally]
  seconds: Tally
}

interface Family {
  tallies: Map<string, { labels: Record<string, string>; tally: Tally }>
}

export class ProxyMetrics {
  readonly registry: Registry
  readonly #families = new Map<string, Family>()
  /** Sources of the gauges; set by the parts that know. */
  readonly gauges = {
    leafExpirySeconds: (): number => 0,
    snapshotAgeSeconds: (): number => 0,
    agentConnected: (): number => 0,
    open: new Map<Door, () => number>(),
    /** By upstream; a gateway's are one. */
    ejected: new Map<string, () => number>(),
    /** By chain and resolver: the index of the target in use. */
    failover: new Map<string, () => number>(),
    /** By upstream: the index of the group of endpoints in use. */
    locality: new Map<string, () => number>(),
    pool: { idle: (): number => 0, busy: (): number => 0, sessions: (): number => 0 },
  }

  constructor(component: string) {
    this.registry = createRegistry(component)
    const { registry, gauges } = this
    this.#counter('isthmus_proxy_requests_total', 'Requests answered.', ['door', 'upstream', 'class', 'decision'])
    this.#counter('isthmus_proxy_request_seconds_total', 'Time spent on requests.', ['door', 'upstream'])
    this.#counter('isthmus_proxy_decisions_total', 'Decisions of the intentions, on requests and on connections of bytes.', ['decision'])
    this.#counter('isthmus_proxy_connections_total', 'Connections accepted.', ['door'])
    this.#counter('isthmus_proxy_refused_total', 'Connections refused before they carried anything.', ['door', 'reason'])
    this.#counter('isthmus_proxy_dials_total', 'Attempts to reach an endpoint.', ['upstream', 'outcome'])
    this.#counter('isthmus_proxy_ejections_total', 'Times that an endpoint was left out.', ['upstream', 'cause'])
    this.#counter('isthmus_proxy_overflow_total', 'Requests and connections over a circuit limit.', ['upstream', 'limit'])
    this.#counter('isthmus_proxy_retries_total', 'Further tries of a request.', ['upstream', 'outcome'])
    this.#counter('isthmus_proxy_failovers_total', 'Times that a resolver went on to another target.', ['upstream', 'target', 'direction'])
    // Of several workers: the one that is worst off, unless it is something to be added up.
    const gauge = (name: string, help: string, aggregator: 'sum' | 'min' | 'max', read: () => number) =>
      new Gauge({
        name,
        help,
        aggregator,
        registers: [registry],
        collect() {
          this.set(read())
        },
      })
    gauge('isthmus_proxy_leaf_expiry_seconds', 'Time until the own leaf expires.', 'min', () => gauges.leafExpirySeconds())
    gauge('isthmus_proxy_snapshot_age_seconds', 'Age of what is known: time since the agent last spoke.', 'max', () =>
      gauges.snapshotAgeSeconds(),
    )
    gauge('isthmus_proxy_agent_connected', '1 while the agent is connected.', 'min', () => gauges.agentConnected())
    gauge('isthmus_proxy_pool_idle_streams', 'Idle pooled streams.', 'sum', () => gauges.pool.idle())
    gauge('isthmus_proxy_pool_busy_streams', 'Pooled streams in use.', 'sum', () => gauges.pool.busy())
    gauge('isthmus_proxy_mux_sessions', 'Connections that carry many streams, both ways.', 'sum', () => gauges.pool.sessions())
    const by = (name: string, help: string, label: string, aggregator: 'sum' | 'max', values: ReadonlyMap<string, () => number>) => {
      const labelled = new Gauge({
        name,
        help,
        labelNames: [label],
        aggregator,
        registers: [registry],
        collect() {
          labelled.reset()
          for (const [value, read] of values) labelled.set({ [label]: value }, read())
        },
      })
    }
    by('isthmus_proxy_connections_open', 'Connections open now.', 'door', 'sum', gauges.open)
    by(
      'isthmus_proxy_failover_target',
      'Index of the target that a resolver uses; 0 is the one it prefers.',
      'resolver',
      'max',
      gauges.failover,
    )
    by(
      'isthmus_proxy_locality_tier',
      'Where the endpoints in use are: 0 in our zone, 1 in our region, 2 elsewhere.',
      'upstream',
      'max',
      gauges.locality,
    )
    by('isthmus_proxy_ejected_endpoints', 'Endpoints that are left out now.', 'upstream', 'max', gauges.ejected)
  }

  /** `decision` is empty where this proxy decides nothing: on its way out, and for what was no request. */
  requests(door: Door, upstream: string, decision: DecisionLabel | '' = ''): RequestTallies {
    const of = (cls: StatusClass) => this.#tally('isthmus_proxy_requests_total', { door, upstream, class: cls, decision })
    return {
      byClass: [of('none'), of('1xx'), of('2xx'), of('3xx'), of('4xx'), of('5xx')],
      seconds: this.#tally('isthmus_proxy_request_seconds_total', { door, upstream }),
    }
  }

  decision(decision: DecisionLabel): Tally {
    return this.#tally('isthmus_proxy_decisions_total', { decision })
  }

  connections(door: Door): Tally {
    return this.#tally('isthmus_proxy_connections_total', { door })
  }

  refused(door: Door, reason: RefusalReason): Tally {
    return this.#tally('isthmus_proxy_refused_total', { door, reason })
  }

  dials(upstream: string, outcome: 'ok' | 'failed' | 'refused-identity'): Tally {
    return this.#tally('isthmus_proxy_dials_total', { upstream, outcome })
  }

  ejections(upstream: string, cause: EjectionCause): Tally {
    return this.#tally('isthmus_proxy_ejections_total', { upstream, cause })
  }

  overflows(upstream: string, limit: CircuitLimit): Tally {
    return this.#tally('isthmus_proxy_overflow_total', { upstream, limit })
  }

  retries(upstream: string, outcome: RetryOutcome): Tally {
    return this.#tally('isthmus_proxy_retries_total', { upstream, outcome })
  }

  /** `over`: to a target that is liked less; `back`: to one that is liked more. */
  failovers(upstream: string, target: string, direction: 'over' | 'back'): Tally {
    return this.#tally('isthmus_proxy_failovers_total', { upstream, target, direction })
  }

  #counter(name: string, help: string, labelNames: string[]): void {
    const family: Family = { tallies: new Map() }
    this.#families.set(name, family)
    const counter = new Counter({
      name,
      help,
      labelNames,
      registers: [this.registry],
      collect() {
        counter.reset()
        for (const { labels, tally } of family.tallies.values()) if (tally.count > 0) counter.inc(labels, tally.count)
      },
    })
  }

  #tally(name: string, labels: Record<string, string>): Tally {
    const { tallies } = this.#families.get(name)!
    const key = Object.values(labels).join('\0')
    const known = tallies.get(key)
    if (known) return known.tally
    const tally: Tally = { count: 0 }
    tallies.set(key, { labels, tally })
    return tally
  }
}

/** Adds one finished request. */
export function recordRequest(tallies: RequestTallies, status: number, durationMs: number): void {
  tallies.byClass[status >= 100 && status < 600 ? (((status / 100) | 0) as 1 | 2 | 3 | 4 | 5) : 0].count += 1
  tallies.seconds.count += durationMs / 1000
}
