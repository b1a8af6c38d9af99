/** /v1/acl and what belongs to it (spec/http-api.md 15): access control lists are off, and each of their endpoints says so. */
import { MeshError } from '../../lib/errors.ts'
import { badRequest } from './errors.ts'
import type { Call, Method, Route } from './route.ts'

function disabled(call: Call): never {
  const peer = call.query.get('peer')
  if (peer !== '')
    throw badRequest(`ACLs are not shared between peers; ask the cluster of peer ${JSON.stringify(peer)} itself, or leave ?peer= out`)
  throw new MeshError('unauthorized', 'ACL support disabled')
}

const methods: Method[] = ['GET', 'PUT', 'POST', 'DELETE']

export const aclRoutes: Route[] = [
  ...methods.map((method): Route => ({ method, path: '/v1/acl/*', what: 'refused: ACLs are disabled', handler: disabled })),
  { method: 'PUT', path: '/v1/agent/token/*', what: 'refused: ACLs are disabled', handler: disabled, agentLocal: true },
  { method: 'POST', path: '/v1/internal/acl/authorize', what: 'refused: ACLs are disabled', handler: disabled },
]
