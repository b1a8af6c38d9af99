/**
 * A service in the agent's own form (spec/http-api.md 3), and its ContentHash: a structural hash of that form, which clients
 * compare to learn that their proxy's configuration has changed. The algorithm is fixed by recorded vectors.
 */
import { encode } from '../../lib/shape.ts'
import { isTypical, NodeService } from '../../mesh/service.ts'

type Json = Record<string, unknown>

/** Without ContentHash, as in lists. */
export function encodeAgentService(service: NodeService, datacenter: string): Json {
  const wire = encode(NodeService, service) as Json
  const proxied = !isTypical(service.kind)
  const connect = wire['Connect'] as Json
  return {
    ...(proxied ? { Kind: service.kind } : {}),
    ID: service.id,
    Service: service.service,
    Tags: service.tags,
    Meta: service.meta ?? {},
    Port: service.port ?? 0,
    Address: service.address,
    ...(service.socketPath ? { SocketPath: service.socketPath } : {}),
    ...(wire['TaggedAddresses'] === undefined ? {} : { TaggedAddresses: wire['TaggedAddresses'] }),
    Weights: wire['Weights'],
    EnableTagOverride: service.enableTagOverride,
    ...(proxied ? { Proxy: withoutEmptyMode(wire['Proxy'] as Json) } : {}),
    ...(Object.keys(connect).length > 0 ? { Connect: connect } : {}),
    ...(service.peerName ? { PeerName: service.peerName } : {}),
    Datacenter: datacenter,
  }
}

/** With ContentHash in its place, as for one service. */
export function encodeAgentServiceWithHash(service: NodeService, datacenter: string): { wire: Json; hash: string } {
  const { Proxy, Connect, PeerName, Datacenter, ...rest } = encodeAgentService(service, datacenter)
  const hash = contentHash({ ...rest, Proxy, Connect, PeerName })
  return { wire: JSON.parse(JSON.stringify({ ...rest, ContentHash: hash, Proxy, Connect, PeerName, Datacenter })) as Json, hash }
}

function withoutEmptyMode({ Mode, ...proxy }: Json): Json {
  return Mode === '' ? proxy : { ...proxy, Mode }
}

const mask = 0xffff_ffff_ffff_ffffn
const offset = 0xcbf2_9ce4_8422_2325n
const prime = 0x100_0000_01b3n

/** FNV-1, 64 bits: multiply, then xor. */
function fnv(data: Uint8Array): bigint {
  let hash = offset
  for (const byte of data) hash = ((hash * prime) & mask) ^ BigInt(byte)
  return hash
}

function ordered(first: bigint, second: bigint): bigint {
  const data = Buffer.alloc(16)
  data.writeBigUInt64LE(first, 0)
  data.writeBigUInt64LE(second, 8)
  return fnv(data)
}

const text = (value: unknown): bigint => fnv(Buffer.from(typeof value === 'string' ? value : ''))

function integer(value: unknown): bigint {
  const data = Buffer.alloc(8)
  data.writeBigInt64LE(BigInt(Math.trunc(Number(value ?? 0))))
  return fnv(data)
}

const bool = (value: unknown): bigint => fnv(Uint8Array.of(value === true ? 1 : 0))

/** A pointer that is nil hashes as the integer 0. */
const pointer = (hash: (value: unknown) => bigint) => (value: unknown) => (value === undefined || value === null ? integer(0) : hash(value))

const list = (element: (value: unknown) => bigint) => (value: unknown) =>
  ((value as unknown[] | undefined) ?? []).reduce<bigint>((hash, each) => ordered(hash, element(each)), 0n)

const map = (element: (value: unknown) => bigint) => (value: unknown) =>
  Object.entries((value as Json | undefined | null) ?? {}).reduce((hash, [key, each]) => hash ^ ordered(text(key), element(each)), 0n)

const struct =
  (name: string, fields: Record<string, (value: unknown) => bigint>) =>
  (value: unknown): bigint =>
    Object.entries(fields).reduce(
      (hash, [field, each]) => hash ^ ordered(text(field), each((value as Json | undefined)?.[field])),
      text(name),
    )

/** A value inside opaque configuration: numbers are floats there. */
function opaque(value: unknown): bigint {
  if (typeof value === 'string') return text(value)
  if (typeof value === 'boolean') return bool(value)
  if (typeof value === 'number') {
    const data = Buffer.alloc(8)
    data.writeDoubleLE(value)
    return fnv(data)
  }
  if (Array.isArray(value)) return list(opaque)(value)
  return value === null || value === undefined ? integer(0) : map(opaque)(value)
}

const meshGateway = struct('MeshGatewayConfig', { Mode: text })
const proxy = struct('AgentServiceConnectProxyConfig', {
  EnvoyExtensions: list(opaque),
  DestinationServiceName: text,
  DestinationServiceID: text,
  LocalServiceAddress: text,
  LocalServicePort: integer,
  LocalServiceSocketPath: text,
  Mode: text,
  TransparentProxy: pointer(struct('TransparentProxyConfig', { OutboundListenerPort: integer, DialedDirectly: bool })),
  Config: map(opaque),
  Upstreams: list(
    struct('Upstream', {
      DestinationType: text,
      DestinationPartition: text,
      DestinationNamespace: text,
      DestinationPeer: text,
      DestinationName: text,
      Datacenter: text,
      LocalBindAddress: text,
      LocalBindPort: integer,
      LocalBindSocketPath: text,
      LocalBindSocketMode: text,
      Config: map(opaque),
      MeshGateway: meshGateway,
      CentrallyConfigured: bool,
    }),
  ),
  MeshGateway: meshGateway,
  Expose: struct('ExposeConfig', {
    Checks: bool,
    Paths: list(struct('ExposePath', { ListenerPort: integer, Path: text, LocalPathPort: integer, Protocol: text, ParsedFromCheck: bool })),
  }),
  AccessLogs: pointer(opaque),
})
const agentService = struct('AgentService', {
  Kind: text,
  ID: text,
  Service: text,
  Tags: list(text),
  Meta: map(text),
  Port: integer,
  Address: text,
  SocketPath: text,
  TaggedAddresses: map(struct('ServiceAddress', { Address: text, Port: integer })),
  Weights: struct('AgentWeights', { Passing: integer, Warning: integer }),
  EnableTagOverride: bool,
  CreateIndex: integer,
  ModifyIndex: integer,
  ContentHash: text,
  Proxy: pointer(proxy),
  Connect: pointer(struct('AgentServiceConnect', { Native: bool, SidecarService: pointer(opaque) })),
  PeerName: text,
})

/** Lower-case hex without leading zeroes, of a service in its wire form. */
export function contentHash(wire: Json): string {
  return agentService(wire).toString(16)
}
