/**
 * The calls of a proxy to its agent (wire/internal-api): its snapshot as a stream, its leaf signed, and that it serves. ACLs are not there yet,
 * so all are for loopback and unix sockets only, and never through a proxy (DESIGN 3).
 */
import type { ServerResponse } from 'node:http'
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import type { SnapshotLine } from '../../mesh/snapshot.ts'
import { SignRequest, SignResponse } from '../../wire/internal-api.ts'
import { httpLimits } from './limits.ts'
import { json, type Reply } from './reply.ts'
import { decodeBody } from './request.ts'
import type { Call, Route } from './route.ts'

const localOnly =
  'Permission denied: proxies talk to their agent over loopback or a unix socket, without anything in between; run the proxy beside its agent'

function unknownProxy(call: Call): MeshError {
  const id = JSON.stringify(call.params['proxy'])
  return new MeshError('not-found', `no proxy ${id} is registered on this agent; register its service with a SidecarService first`)
}

function snapshot(call: Call): Reply {
  const proxyId = call.params['proxy'] ?? ''
  const { snapshots, localAgent } = call.agent
  if (!snapshots.knows(proxyId)) throw unknownProxy(call)
  return {
    kind: 'stream',
    status: 200,
    headers: { 'Content-Type': 'application/x-ndjson', 'Cache-Control': 'no-store' },
    start(response) {
      const stream = snapshots.stream(proxyId, lines => writeLines(response, lines))
      // Gone since the look above: the proxy asks again and is told so.
      if (!stream) return void response.end()
      // A proxy that was killed is the first to be missed here.
      const onClose = () => {
        stream.close()
        localAgent.lookSoon(proxyId)
      }
      if (response.destroyed) onClose()
      else response.once('close', onClose)
    },
  }
}

function writeLines(response: ServerResponse, lines: SnapshotLine[]): void {
  if (response.destroyed) return
  if (response.writableLength > httpLimits.streamBufferBytes) return void response.destroy()
  response.write(lines.map(line => `${JSON.stringify(line)}\n`).join(''))
}

async function sign(call: Call): Promise<Reply> {
  const { csr } = decodeBody(call.body, SignRequest, { prefix: 'Request decode failed' })
  const self = call.agent.snapshots.snapshot(call.params['proxy'] ?? '')?.value.find(each => each.kind === 'self')
  if (self?.kind !== 'self' || self.value === null) throw unknownProxy(call)
  const leaf = await call.agent.ca.signCsr(csr, self.value.spiffeId)
  return json(
    encode(SignResponse, {
      certPem: leaf.certPem,
      spiffeId: leaf.uri,
      validAfterMs: leaf.validAfterMs,
      validBeforeMs: leaf.validBeforeMs,
    }),
  )
}

/** Whoever finds its service healthy finds it as soon as it can be reached. */
function serving(call: Call): Reply {
  const proxyId = call.params['proxy'] ?? ''
  const { snapshots, localAgent } = call.agent
  if (!snapshots.knows(proxyId)) throw unknownProxy(call)
  localAgent.lookSoon(proxyId)
  return json({})
}

export const internalRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/internal/isthmus/snapshot/:proxy',
    what: "a proxy's snapshot, line by line (loopback only)",
    handler: snapshot,
    agentLocal: true,
    localOnly,
    plain: true,
  },
  {
    method: 'PUT',
    path: '/v1/internal/isthmus/sign/:proxy',
    body: SignRequest,
    what: "signs a proxy's certificate request (loopback only)",
    handler: sign,
    agentLocal: true,
    localOnly,
  },
  {
    method: 'PUT',
    path: '/v1/internal/isthmus/serving/:proxy',
    what: 'a proxy listens: its checks are run at once (loopback only)',
    handler: serving,
    agentLocal: true,
    localOnly,
  },
]
