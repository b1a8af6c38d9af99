/**
 * /v1/operator (spec/http-api.md 14): the servers of this cluster, which is one, and how much it holds. There is no Raft; what asks for
 * its state is told that this agent leads alone, and what would change it is refused in Consul's words.
 */
import * as z from 'zod'
import { multiError, MeshError } from '../../lib/errors.ts'
import { duration, encode } from '../../lib/shape.ts'
import { isTypical } from '../../mesh/service.ts'
import { readHeaders } from './answers.ts'
import { blockingRead } from './blocking.ts'
import { badRequest } from './errors.ts'
import { consulVersion } from './parts.ts'
import { json, type Reply } from './reply.ts'
import { decodeBody, uintParam } from './request.ts'
import type { Call, Route } from './route.ts'
import { serverAddress } from './status.ts'
import { queryMeta } from './txn.ts'

function raftConfiguration(call: Call): Reply {
  const { nodeId, nodeName } = call.agent.config
  const server = {
    ID: nodeId,
    Node: nodeName,
    Address: serverAddress(call),
    Leader: true,
    ProtocolVersion: '3',
    Voter: true,
    LastIndex: call.agent.tables.revision,
  }
  return json({ Servers: [server], Index: 0 })
}

function removePeer(call: Call): Reply {
  const [id, address] = [call.query.get('id'), call.query.get('address')]
  if (id === '' && address === '') {
    throw badRequest("Must specify either ?id with the server's ID or ?address with IP:port of peer to remove")
  }
  if (id !== '' && address !== '') throw badRequest('Must specify only one of ?id or ?address')
  const [what, value] = id === '' ? ['address', address] : ['id', id]
  if (value === serverAddress(call) || value === call.agent.config.nodeId) {
    throw new MeshError('invalid', 'this agent is the only server; it cannot be removed')
  }
  throw new MeshError('invalid', `${what} ${JSON.stringify(value)} was not found in the Raft configuration`)
}

function transferLeader(): Reply {
  throw new MeshError('invalid', 'cannot find peer')
}

const Autopilot = z.object({
  cleanupDeadServers: z.boolean().default(true),
  lastContactThresholdMs: duration('LastContactThreshold').default(200),
  maxTrailingLogs: z.number().int().nonnegative().default(250),
  minQuorum: z.number().int().nonnegative().default(0),
  serverStabilizationTimeMs: duration('ServerStabilizationTime').default(10_000),
  redundancyZoneTag: z.string().default(''),
  disableUpgradeMigration: z.boolean().default(false),
  upgradeVersionTag: z.string().default(''),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
})
type Autopilot = z.infer<typeof Autopilot>

/** Kept for its clients' sake, in memory: with one server it decides nothing. */
export class AutopilotSettings {
  #settings: Autopilot

  constructor(index: number) {
    this.#settings = { ...Autopilot.parse({}), createIndex: index, modifyIndex: index }
  }

  read(): Autopilot {
    return this.#settings
  }

  /** False when `cas` is not the index of what is there. */
  write(settings: Autopilot, index: number, cas: number | undefined): boolean {
    if (cas !== undefined && cas !== this.#settings.modifyIndex) return false
    const { createIndex, modifyIndex } = this.#settings
    // Greater than before even where nothing else was written since: it is what the next cas compares.
    this.#settings = { ...settings, createIndex, modifyIndex: Math.max(index, modifyIndex + 1) }
    return true
  }
}

function autopilot(call: Call): Reply {
  return json(encode(Autopilot, call.agent.autopilot.read()))
}

function setAutopilot(call: Call): Reply {
  const cas = uintParam(call.query, 'cas')
  const settings = decodeBody(call.body, Autopilot, { prefix: 'Error parsing autopilot config' })
  return json(call.agent.autopilot.write(settings, call.agent.tables.revision, cas))
}

function autopilotHealth(call: Call): Reply {
  const { nodeId, nodeName, startedAt } = call.agent.config
  const server = {
    ID: nodeId,
    Name: nodeName,
    Address: serverAddress(call),
    SerfStatus: 'alive',
    Version: consulVersion,
    Leader: true,
    LastContact: '0s',
    LastTerm: 2,
    LastIndex: call.agent.tables.revision,
    Healthy: true,
    Voter: true,
    StableSince: `${startedAt.slice(0, 19)}Z`,
  }
  return json({ Healthy: true, FailureTolerance: 0, Servers: [server] })
}

function autopilotState(call: Call): Reply {
  const { nodeId, nodeName, nodeMeta, startedAt } = call.agent.config
  const server = {
    ID: nodeId,
    Name: nodeName,
    Address: serverAddress(call),
    NodeStatus: 'alive',
    Version: consulVersion,
    LastContact: '0s',
    LastTerm: 2,
    LastIndex: call.agent.tables.revision,
    Healthy: true,
    StableSince: startedAt,
    ReadReplica: false,
    Status: 'leader',
    Meta: { 'consul-network-segment': '', 'consul-version': consulVersion, ...nodeMeta },
    NodeType: 'voter',
  }
  return json({
    Healthy: true,
    FailureTolerance: 0,
    OptimisticFailureTolerance: 0,
    Servers: { [nodeId]: server },
    Leader: nodeId,
    Voters: [nodeId],
  })
}

/** There is no gossip to encrypt. */
function keyring(call: Call): Reply {
  const { nodeName, datacenter } = call.agent.config
  throw new MeshError(
    'invalid',
    multiError([
      'WAN error: 1/1 nodes reported failure',
      `${nodeName}.${datacenter}: Keyring is empty (encryption not enabled)`,
      `${datacenter} (LAN) error: 1/1 nodes reported failure`,
      `${nodeName}: Keyring is empty (encryption not enabled)`,
    ]),
  )
}

const gatewayKinds = ['api-gateway', 'connect-native', 'connect-proxy', 'ingress-gateway', 'mesh-gateway', 'terminating-gateway'] as const

async function usage(call: Call): Promise<Reply> {
  const { tables, config } = call.agent
  const reading = await blockingRead(call, () => {
    const nodes = tables.nodes()
    const services = tables.services()
    return { value: undefined, index: Math.max(nodes.index, services.index), topics: [...nodes.topics, ...services.topics] }
  })
  const instances = [...tables.services().value.keys()].flatMap(name => tables.instances(name).value.map(each => each.service))
  const kinds = Object.fromEntries(
    gatewayKinds.map(kind => [
      kind,
      instances.filter(({ kind: own, connect }) => (kind === 'connect-native' ? connect.native === true : own === kind)).length,
    ]),
  )
  const own = {
    Services: tables.services().value.size,
    ServiceInstances: instances.length,
    ConnectServiceInstances: kinds,
    BillableServiceInstances: instances.filter(({ kind, service }) => isTypical(kind) && service !== 'consul').length,
    Nodes: tables.nodes().value.length,
  }
  return json({ Usage: { [config.datacenter]: own }, ...queryMeta(call.read.consistency, reading.index) }, readHeaders(call, reading))
}

export const operatorRoutes: Route[] = [
  { method: 'GET', path: '/v1/operator/raft/configuration', what: 'the servers: this agent', handler: raftConfiguration },
  { method: 'DELETE', path: '/v1/operator/raft/peer', takes: ['id', 'address'], what: 'refused: there is one server', handler: removePeer },
  { method: 'POST', path: '/v1/operator/raft/transfer-leader', what: 'refused: there is one server', handler: transferLeader },
  { method: 'GET', path: '/v1/operator/autopilot/configuration', what: 'settings that decide nothing with one server', handler: autopilot },
  {
    method: 'PUT',
    path: '/v1/operator/autopilot/configuration',
    takes: ['cas'],
    body: Autopilot,
    what: 'takes such settings; ?cas=',
    handler: setAutopilot,
  },
  { method: 'GET', path: '/v1/operator/autopilot/health', what: 'the health of the servers', handler: autopilotHealth },
  { method: 'GET', path: '/v1/operator/autopilot/state', what: 'the state of the servers', handler: autopilotState },
  ...(['GET', 'POST', 'PUT', 'DELETE'] as const).map((method): Route => ({
    method,
    path: '/v1/operator/keyring',
    what: 'refused: there is no gossip to encrypt',
    handler: keyring,
  })),
  {
    method: 'GET',
    path: '/v1/operator/usage',
    takes: ['index', 'wait'],
    what: 'how many services, instances and nodes there are',
    handler: usage,
  },
]
