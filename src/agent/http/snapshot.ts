/**
 * /v1/snapshot (spec/http-api.md 14): everything this cluster knows, saved to and restored from one archive. It holds the keys of the
 * CA, so while there are no ACLs it is for this machine alone.
 */
import { MeshError } from '../../lib/errors.ts'
import { archiveLimits } from '../catalog/archive.ts'
import { mayUseInternal } from './guard.ts'
import { bytes, empty, metaHeaders, type Reply } from './reply.ts'
import { refusePeer } from './request.ts'
import type { Call, Route } from './route.ts'

function requireLocal(call: Call): void {
  refusePeer(call, 'a snapshot is of one cluster')
  if (mayUseInternal(call.remote)) return
  throw new MeshError(
    'permission-denied',
    'Permission denied: a snapshot holds the keys of the CA; without ACLs it is saved and restored over loopback or a unix socket only, without anything in between',
  )
}

async function save(call: Call): Promise<Reply> {
  requireLocal(call)
  const { archive, revision } = await call.agent.backup.save()
  return bytes(archive, 'application/x-gzip', { ...metaHeaders({ index: revision }), 'Cache-Control': 'no-store' })
}

async function restore(call: Call): Promise<Reply> {
  requireLocal(call)
  await call.agent.backup.restore(call.body)
  return empty()
}

export const snapshotRoutes: Route[] = [
  { method: 'GET', path: '/v1/snapshot', what: 'saves everything, secrets included (loopback only)', handler: save, plain: true },
  {
    method: 'PUT',
    path: '/v1/snapshot',
    body: 'bytes',
    what: 'restores everything from such an archive (loopback only)',
    handler: restore,
    bodyLimit: archiveLimits.packedBytes,
  },
]
