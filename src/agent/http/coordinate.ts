/**
 * /v1/coordinate (spec/http-api.md 14): network coordinates of nodes. Nothing here measures any; what clients update is kept in memory,
 * and this agent's own node stands at the origin.
 */
import * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import { badRequest } from './errors.ts'
import { empty, json, metaHeaders, type Reply } from './reply.ts'
import { decodeBody, refusePeer } from './request.ts'
import type { Call, Route } from './route.ts'

const dimensions = 8
const maxCoordinates = 10_000
const maxNameLength = 256

const Coordinate = z.object({
  node: z.string().default(''),
  segment: z.string().default(''),
  partition: z.string().optional(),
  coord: z.object({
    vec: z.array(z.number()).default([]),
    error: z.number().default(0),
    adjustment: z.number().default(0),
    height: z.number().default(0),
  }),
})
type Coordinate = z.infer<typeof Coordinate>

const shared = 'coordinates are not shared between peers'
const origin = { vec: Array.from({ length: dimensions }, () => 0), error: 1.5, adjustment: 0, height: 1e-5 }

/** What clients told, by node. */
export class Coordinates {
  readonly #told = new Map<string, Coordinate>()

  tell(coordinate: Coordinate): void {
    const key = coordinate.node.toLowerCase()
    if (!this.#told.has(key) && this.#told.size >= maxCoordinates) {
      throw new MeshError('unavailable', `coordinates of ${maxCoordinates} nodes are known; no more are kept`)
    }
    this.#told.set(key, coordinate)
  }

  of(node: string): Coordinate | undefined {
    return this.#told.get(node.toLowerCase())
  }
}

function known(call: Call): Coordinate[] {
  return call.agent.tables
    .nodes()
    .value.map(({ node }) => coordinateOf(call, node))
    .filter(each => each !== undefined)
}

function coordinateOf(call: Call, node: string): Coordinate | undefined {
  const { coordinates, config } = call.agent
  return coordinates.of(node) ?? (node === config.nodeName ? { node, segment: '', coord: origin } : undefined)
}

/** As GET /v1/agent/self shows it. */
export function ownCoordinate(call: Call): unknown {
  return encode(Coordinate.shape.coord, coordinateOf(call, call.agent.config.nodeName)!.coord)
}

function datacenters(call: Call): Reply {
  const { datacenter, nodeName } = call.agent.config
  const own = encode(Coordinate, { node: nodeName, segment: '', coord: origin })
  return json([{ Datacenter: datacenter, AreaID: 'wan', Coordinates: [own] }])
}

function nodes(call: Call): Reply {
  refusePeer(call, shared)
  return json(
    known(call).map(each => encode(Coordinate, each)),
    metaHeaders(call.agent.tables.nodes()),
  )
}

function node(call: Call): Reply {
  refusePeer(call, shared)
  if (call.rest === '') throw badRequest('Missing node name')
  const found = known(call).filter(each => each.node.toLowerCase() === call.rest.toLowerCase())
  const headers = metaHeaders(call.agent.tables.nodes())
  return found.length === 0
    ? empty({}, 404)
    : json(
        found.map(each => encode(Coordinate, each)),
        headers,
      )
}

function update(call: Call): Reply {
  refusePeer(call, shared)
  const coordinate = decodeBody(call.body, Coordinate, { prefix: 'Request decode failed' })
  const { vec, error, adjustment, height } = coordinate.coord
  if (vec.length !== dimensions) throw new MeshError('invalid', 'incompatible coordinate')
  if ([coordinate.node, coordinate.segment, coordinate.partition ?? ''].some(name => name.length > maxNameLength)) {
    throw new MeshError('invalid', `the name of a node or a segment is longer than ${maxNameLength}`)
  }
  if (![...vec, error, adjustment, height].every(Number.isFinite)) throw new MeshError('invalid', 'invalid coordinate')
  call.agent.coordinates.tell(coordinate)
  return empty()
}

export const coordinateRoutes: Route[] = [
  { method: 'GET', path: '/v1/coordinate/datacenters', what: 'the coordinates of the servers', handler: datacenters },
  { method: 'GET', path: '/v1/coordinate/nodes', what: 'the coordinates of the nodes', handler: nodes },
  { method: 'GET', path: '/v1/coordinate/node/*', what: 'the coordinate of a node', handler: node },
  { method: 'PUT', path: '/v1/coordinate/update', body: Coordinate, what: 'tells the coordinate of a node', handler: update },
]
