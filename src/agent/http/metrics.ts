/** GET /v1/agent/metrics (spec/http-api.md 3): the agent's registry in Consul's JSON, or as Prometheus text. */
import type { MetricObjectWithValues, MetricValue } from 'prom-client'
import { bytes, json, type Reply } from './reply.ts'
import type { Call } from './route.ts'

export async function metrics(call: Call): Promise<Reply> {
  const registry = call.agent.metrics
  const accept = call.header('accept') ?? ''
  const wantsText = call.query.get('format') === 'prometheus' || /openmetrics|text\/plain\s*;\s*version=0\.0\.4/i.test(accept)
  if (wantsText) return bytes(await registry.metrics(), registry.contentType)
  const all = await registry.getMetricsAsJSON()
  const memory = process.memoryUsage()
  return json({
    Timestamp: `${new Date().toISOString().slice(0, 19).replace('T', ' ')} +0000 UTC`,
    Gauges: [
      // Clients look for these two names, whatever the process is made of.
      { Name: 'consul.runtime.alloc_bytes', Value: memory.heapUsed, Labels: {} },
      { Name: 'consul.runtime.sys_bytes', Value: memory.rss, Labels: {} },
      ...rows(all, 'gauge', ({ value, labels }, name) => ({ Name: name, Value: value, Labels: texts(labels) })),
    ],
    Points: [],
    Counters: rows(all, 'counter', ({ value, labels }, name) => sample(name, value, value, labels)),
    Samples: all.filter(each => String(each.type) === 'histogram' || String(each.type) === 'summary').flatMap(distribution),
  })
}

function rows<T>(
  all: MetricObjectWithValues<MetricValue<string>>[],
  type: string,
  row: (value: MetricValue<string>, name: string) => T,
): T[] {
  return all.filter(each => String(each.type) === type).flatMap(each => each.values.map(value => row(value, each.name)))
}

/** A histogram's _sum and _count, by their labels, as one sample. */
function distribution(metric: MetricObjectWithValues<MetricValue<string>>): unknown[] {
  const values = metric.values as (MetricValue<string> & { metricName?: string })[]
  return values
    .filter(each => each.metricName === `${metric.name}_sum`)
    .map(({ value, labels }) => {
      const key = JSON.stringify(labels)
      const count = values.find(each => each.metricName === `${metric.name}_count` && JSON.stringify(each.labels) === key)?.value ?? 0
      return sample(metric.name, count, value, labels)
    })
}

function sample(name: string, count: number, sum: number, labels: MetricValue<string>['labels']): unknown {
  const mean = count === 0 ? 0 : sum / count
  // Consul's clients read a count into a whole number.
  return { Name: name, Count: Math.round(count), Rate: 0, Sum: sum, Min: 0, Max: 0, Mean: mean, Stddev: 0, Labels: texts(labels) }
}

function texts(labels: MetricValue<string>['labels']): Record<string, string> {
  return Object.fromEntries(Object.entries(labels).map(([name, value]) => [name, String(value)]))
}
