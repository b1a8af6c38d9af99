/** What Consul's federated datacenters tell each other (spec/http-api.md 14): this cluster is alone in that, peers are something else. */
import { json, metaHeaders, type Reply, text } from './reply.ts'
import type { Call, Route } from './route.ts'
import { queryMeta } from './txn.ts'

/** Nothing ever changes it. */
const index = 1

function stateOf(call: Call): unknown {
  const { datacenter, startedAt } = call.agent.config
  return { Datacenter: datacenter, UpdatedAt: startedAt, PrimaryModifyIndex: index, CreateIndex: index, ModifyIndex: index }
}

function one(call: Call): Reply {
  if (call.rest !== call.agent.config.datacenter) {
    return call.rest === '' ? text('Missing datacenter name', 400) : text('', 404, metaHeaders({ index }))
  }
  return json({ State: stateOf(call), ...queryMeta('', index) }, metaHeaders({ index }))
}

function all(call: Call): Reply {
  return json([stateOf(call)], metaHeaders({ index }))
}

function meshGateways(): Reply {
  return json({}, metaHeaders({ index }))
}

export const federationRoutes: Route[] = [
  { method: 'GET', path: '/v1/internal/federation-states', what: 'the federated datacenters: this one', handler: all },
  {
    method: 'GET',
    path: '/v1/internal/federation-states/mesh-gateways',
    what: 'gateways between federated datacenters: none',
    handler: meshGateways,
  },
  { method: 'GET', path: '/v1/internal/federation-state/*', what: 'one federated datacenter', handler: one },
]
