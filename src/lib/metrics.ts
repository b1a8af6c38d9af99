/**
 * Metrics: one prom-client Registry for each thing that is started, so that several can run in one process. Each part declares
 * its own in a metrics.ts (agent/peering, agent/dns, proxy); names are isthmus_<area>_<noun>_<unit>.
 */
import { AggregatorRegistry, collectDefaultMetrics, Registry, type MetricObjectWithValues, type MetricValue } from 'prom-client'

export { Counter, Gauge, Histogram, Registry } from 'prom-client'

/** How often the lag of the event loop is looked at. The package's own 10 ms wakes an idle proxy a hundred times a second. */
const loopLagMs = 250

/** What a registry gives as JSON: what one process sends to the one that adds up. */
export type MetricsJson = MetricObjectWithValues<MetricValue<string>>[]

/** Content type of the text format. */
export const metricsType = Registry.PROMETHEUS_CONTENT_TYPE

/** The metrics of several processes as one text: each metric by its `aggregator`, which is the sum unless it was declared otherwise. */
export function addUp(parts: MetricsJson[]): Promise<string> {
  return AggregatorRegistry.aggregate(parts).metrics()
}

/** What only grows of them, added up: to be kept of processes that are gone. */
export async function countersOf(parts: MetricsJson[]): Promise<MetricsJson> {
  const all = await AggregatorRegistry.aggregate(parts).getMetricsAsJSON()
  return all.filter(({ type }) => String(type) === 'counter' || String(type) === 'histogram')
}

/** A registry with the process's own metrics (CPU, memory, event-loop lag), labelled with what was started. */
export function createRegistry(component: string): Registry {
  const registry = new Registry()
  registry.setDefaultLabels({ component })
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: loopLagMs })
  return registry
}
