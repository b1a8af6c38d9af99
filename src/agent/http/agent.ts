/** /v1/agent: this agent itself (spec/http-api.md 3). What would show a secret is not part of any answer. */
import { arch, cpus, platform } from 'node:os'
import { MeshError } from '../../lib/errors.ts'
import { badRequest } from './errors.ts'
import { applyFilter } from './filter.ts'
import { metrics } from './metrics.ts'
import { consulVersion } from './parts.ts'
import { empty, json, type Reply } from './reply.ts'
import { parseBool, type Query } from './request.ts'
import type { Call, Route } from './route.ts'
import * as z from 'zod'
import { encode } from '../../lib/shape.ts'
import { ownCoordinate } from './coordinate.ts'
import { gossipPort, serverAddress, serverRpcPort } from './status.ts'

const Member = z.object({
  name: z.string(),
  addr: z.string(),
  port: z.number(),
  tags: z.record(z.string(), z.string()),
  status: z.number(),
  protocolMin: z.number(),
  protocolMax: z.number(),
  protocolCur: z.number(),
  delegateMin: z.number(),
  delegateMax: z.number(),
  delegateCur: z.number(),
})

/** A build date nobody relies on; Consul's own placeholder. */
const buildDate = '1970-01-01T00:00:01Z'
function self(call: Call): Reply {
  const { config, localAgent } = call.agent
  const ports = config.ports
  const checks = [...localAgent.checks().values()]
  const grpc = { Plaintext: ports.grpc ?? -1, TLS: ports.grpcTls ?? -1 }
  const hasGrpc = ports.grpc !== undefined || ports.grpcTls !== undefined
  return json({
    Config: {
      Datacenter: config.datacenter,
      PrimaryDatacenter: config.datacenter,
      NodeName: config.nodeName,
      NodeID: config.nodeId,
      Revision: '',
      Server: true,
      Version: consulVersion,
      BuildDate: buildDate,
    },
    DebugConfig: debugConfig(call),
    Coord: ownCoordinate(call),
    Member: encode(Member, ownMember(call, false)),
    Stats: {
      agent: {
        check_monitors: String(checks.filter(check => check.type !== 'ttl' && check.type !== '').length),
        check_ttls: String(checks.filter(check => check.type === 'ttl').length),
        checks: String(checks.length),
        services: String(localAgent.services().size),
      },
      build: { prerelease: '', revision: '', version: consulVersion, version_metadata: `isthmus ${config.version}` },
      consul: {
        acl: 'disabled',
        bootstrap: 'true',
        known_datacenters: '1',
        leader: 'true',
        leader_addr: serverAddress(call),
        server: 'true',
      },
      raft: {
        applied_index: String(call.agent.tables.revision),
        commit_index: String(call.agent.tables.revision),
        num_peers: '0',
        state: 'Leader',
      },
      runtime: { arch: arch(), cpu_count: String(cpus().length), os: platform(), version: `node ${process.version}` },
      serf_lan: { members: '1' },
      serf_wan: { members: '1' },
    },
    Meta: { 'consul-network-segment': '', 'consul-version': consulVersion, ...config.nodeMeta },
    ...(hasGrpc
      ? {
          xDS: {
            SupportedProxies: { envoy: ['1.26.6', '1.25.11', '1.24.12', '1.23.12'] },
            Port: ports.grpcTls ?? ports.grpc,
            Ports: grpc,
          },
        }
      : {}),
  })
}

/** The members that clients are known to read (spec/http-api.md 3); no directory, no key and no token. */
function debugConfig(call: Call): unknown {
  const { config, defaultAclPolicy } = call.agent
  const { ports, advertiseAddr } = config
  return {
    ACLsEnabled: false,
    ACLResolverSettings: {
      ACLDefaultPolicy: defaultAclPolicy,
      ACLsEnabled: false,
      Datacenter: config.datacenter,
      NodeName: config.nodeName,
    },
    AdvertiseAddrLAN: advertiseAddr,
    ConnectEnabled: config.connectEnabled,
    Datacenter: config.datacenter,
    DevMode: config.dev,
    DNSPort: ports.dns ?? -1,
    GRPCPort: ports.grpc ?? -1,
    GRPCTLSPort: ports.grpcTls ?? -1,
    HTTPPort: ports.http ?? -1,
    NodeID: config.nodeId,
    NodeMeta: config.nodeMeta,
    NodeName: config.nodeName,
    PeeringEnabled: config.peeringEnabled,
    PrimaryDatacenter: config.datacenter,
    SerfAdvertiseAddrLAN: `tcp://${advertiseAddr}:${gossipPort}`,
    SerfAdvertiseAddrWAN: `tcp://${advertiseAddr}:${gossipPort + 1}`,
    ServerMode: true,
    ServerPort: serverRpcPort,
    Version: consulVersion,
  }
}

function ownMember(call: Call, wan: boolean): z.infer<typeof Member> {
  const { config } = call.agent
  return {
    name: wan ? `${config.nodeName}.${config.datacenter}` : config.nodeName,
    addr: config.advertiseAddr,
    port: wan ? gossipPort + 1 : gossipPort,
    tags: {
      acls: '0',
      bootstrap: '1',
      build: `${consulVersion}:`,
      dc: config.datacenter,
      ft_fs: '1',
      ft_si: '1',
      ...(config.ports.grpc === undefined ? {} : { grpc_port: String(config.ports.grpc) }),
      ...(config.ports.grpcTls === undefined ? {} : { grpc_tls_port: String(config.ports.grpcTls) }),
      id: config.nodeId,
      port: String(serverRpcPort),
      raft_vsn: '3',
      role: 'consul',
      segment: '',
      vsn: '2',
      vsn_max: '3',
      vsn_min: '2',
      ...(wan ? {} : { wan_join_port: String(gossipPort + 1) }),
    },
    status: 1,
    protocolMin: 1,
    protocolMax: 5,
    protocolCur: 2,
    delegateMin: 2,
    delegateMax: 5,
    delegateCur: 4,
  }
}

function version(): Reply {
  return json({ SHA: '', BuildDate: buildDate, HumanVersion: consulVersion, FIPS: '' })
}

function members(call: Call): Reply {
  const wan = call.query.has('wan')
  const segment = call.query.get('segment')
  if (wan && segment !== '' && segment !== '_all') throw badRequest('Cannot provide a segment with wan=true')
  if (segment !== '' && segment !== '_all') throw new MeshError('invalid', 'Network segments are not supported in this version of Consul')
  return json(applyFilter(call.query, Member, [ownMember(call, wan)]).map(member => encode(Member, member)))
}

/** `?enable=`: a boolean that must be given. */
export function enableParam(query: Query): boolean {
  if (query.get('enable') === '') throw badRequest('Missing value for enable')
  const enable = parseBool(query.get('enable'))
  if (enable === undefined) throw badRequest(`Invalid value for enable: ${JSON.stringify(query.get('enable'))}`)
  return enable
}

async function maintenance(call: Call): Promise<Reply> {
  await call.agent.localAgent.setNodeMaintenance(enableParam(call.query), call.query.get('reason') || undefined)
  return empty()
}

export const agentRoutes: Route[] = [
  { method: 'GET', path: '/v1/agent/self', what: 'what this agent is and how it is set up', handler: self, agentLocal: true },
  { method: 'GET', path: '/v1/agent/version', what: 'the version of the API', handler: version, agentLocal: true },
  {
    method: 'GET',
    path: '/v1/agent/members',
    takes: ['wan', 'segment', 'filter'],
    what: 'the members of the cluster: this agent',
    handler: members,
    agentLocal: true,
  },
  {
    method: 'PUT',
    path: '/v1/agent/maintenance',
    takes: ['enable', 'reason'],
    what: 'puts this node into maintenance, or back',
    handler: maintenance,
    agentLocal: true,
  },
  {
    method: 'GET',
    path: '/v1/agent/metrics',
    takes: ['format'],
    what: 'metrics as JSON, or ?format=prometheus',
    handler: metrics,
    agentLocal: true,
  },
]
