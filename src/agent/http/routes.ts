/** The route table: every endpoint of the HTTP API, family by family. Docs and tests read it; the router serves nothing else. */
import { aclRoutes } from './acl.ts'
import { agentCheckRoutes } from './agent-checks.ts'
import { agentHealthRoutes } from './agent-health.ts'
import { agentLifecycleRoutes } from './agent-lifecycle.ts'
import { agentServiceRoutes } from './agent-services.ts'
import { agentRoutes } from './agent.ts'
import { authorizeRoutes } from './authorize.ts'
import { catalogRoutes } from './catalog.ts'
import { configRoutes } from './config-entries.ts'
import { connectRoutes } from './connect.ts'
import { coordinateRoutes } from './coordinate.ts'
import { discoveryChainRoutes } from './discovery-chain.ts'
import { eventRoutes } from './event.ts'
import { federationRoutes } from './federation.ts'
import { healthRoutes } from './health.ts'
import { intentionRoutes } from './intentions.ts'
import { internalRoutes } from './internal.ts'
import { kvRoutes } from './kv.ts'
import { openApiRoute } from './openapi.ts'
import { operatorRoutes } from './operator.ts'
import { peeringRoutes } from './peering.ts'
import { queryRoutes } from './query.ts'
import type { Route } from './route.ts'
import { sessionRoutes } from './session.ts'
import { snapshotRoutes } from './snapshot.ts'
import { statusRoutes } from './status.ts'
import { txnRoutes } from './txn.ts'
import { uiRoutes } from './ui.ts'
import { whyRoutes } from './why.ts'

export const routes: readonly Route[] = [
  ...agentRoutes,
  ...agentLifecycleRoutes,
  ...authorizeRoutes,
  ...agentServiceRoutes,
  ...agentCheckRoutes,
  ...agentHealthRoutes,
  ...catalogRoutes,
  ...healthRoutes,
  ...peeringRoutes,
  ...configRoutes,
  ...discoveryChainRoutes,
  ...connectRoutes,
  ...intentionRoutes,
  ...kvRoutes,
  ...sessionRoutes,
  ...txnRoutes,
  ...queryRoutes,
  ...eventRoutes,
  ...snapshotRoutes,
  ...coordinateRoutes,
  ...operatorRoutes,
  ...statusRoutes,
  ...uiRoutes,
  ...federationRoutes,
  ...internalRoutes,
  ...aclRoutes,
  openApiRoute(() => routes),
  ...whyRoutes,
]
