/**
 * Metrics: one prom-client Registry for each thing that is started, so that several can run in one process. Each part declares
 * its own in a metrics.ts (agent/peering, agent/dns, proxy); names are isthmus_<area>_<noun>_<unit>.
 */
import { collectDefaultMetrics, Registry } from 'prom-client'

export { Counter, Gauge, Histogram, Registry } from 'prom-client'

/** How often the lag of the event loop is looked at. The package's own 10 ms wakes an idle proxy a hundred times a second. */
const loopLagMs = 250

/** A registry with the process's own metrics (CPU, memory, event-loop lag), labelled with what was started. */
export function createRegistry(component: string): Registry {
  const registry = new Registry()
  registry.setDefaultLabels({ component })
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: loopLagMs })
  return registry
}
