/**
 * /v1/snapshot (spec/http-api.md 14): everything this cluster knows, saved to and restored from one archive. It holds the keys of the
 * CA, so while there are no ACLs it is for this machine alone.
 */
import { archiveLimits } from '../catalog/archive.ts'
import { bytes, empty, metaHeaders, type Reply } from './reply.ts'
import { refusePeer } from './request.ts'
import type { Call, Route } from './route.ts'

const localOnly =
  'Permission denied: a snapshot holds the keys of the CA; without ACLs it is saved and restored over loopback or a unix socket only, without anything in between'
const shared = 'a snapshot is of one cluster'

async function save(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  const { archive, revision } = await call.agent.backup.save()
  return bytes(archive, 'application/x-gzip', { ...metaHeaders({ index: revision }), 'Cache-Control': 'no-store' })
}

async function restore(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  await call.agent.backup.restore(call.body)
  return empty()
}

export const snapshotRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/snapshot',
    what: 'saves everything, secrets included (loopback only)',
    handler: save,
    plain: true,
    localOnly,
  },
  {
    method: 'PUT',
    path: '/v1/snapshot',
    body: 'bytes',
    what: 'restores everything from such an archive (loopback only)',
    handler: restore,
    bodyLimit: archiveLimits.packedBytes,
    localOnly,
  },
]
