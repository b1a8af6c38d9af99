/**
 * Envoy as a pair, configured as Consul 1.16 configures a caller's and a callee's sidecar: the same filters, TLS and
 * intentions, as a file instead of over xDS. Consul's header_to_metadata filter, which feeds extensions only, is left out, to Envoy's
 * advantage. One worker thread; statistics are on, as they are by default.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePorts } from '../../../test/support/free-ports.ts'
import { bulkPorts } from '../../machine/bulk-ports.ts'
import { startOn } from '../../machine/programs.ts'
import type { Running } from '../../../test/support/processes.ts'
import { listening } from '../listening.ts'
import { pairOf, type Ground, type Pair, type Protocol } from '../pair.ts'

const extension = (path: string) => `type.googleapis.com/envoy.extensions.${path}`
const address = (port: number) => ({ socket_address: { address: '127.0.0.1', port_value: port } })

function cluster(name: string, port: number, protocol: Protocol, transport?: unknown): unknown {
  return {
    name,
    type: 'STATIC',
    connect_timeout: '5s',
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address: address(port) } }] }] },
    ...(transport === undefined ? {} : { transport_socket: transport, outlier_detection: {} }),
    ...(protocol === 'grpc' ? { typed_extension_protocol_options: http2 } : {}),
  }
}

const http2 = {
  'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
    '@type': extension('upstreams.http.v3.HttpProtocolOptions'),
    explicit_http_config: { http2_protocol_options: {} },
  },
}

function tls(kind: 'UpstreamTlsContext' | 'DownstreamTlsContext', more: Record<string, unknown>, common: Record<string, unknown>): unknown {
  return {
    name: 'tls',
    typed_config: { '@type': extension(`transport_sockets.tls.v3.${kind}`), ...more, common_tls_context: { tls_params: {}, ...common } },
  }
}

const certificateOf = (identity: { certPath: string; keyPath: string }) => [
  { certificate_chain: { filename: identity.certPath }, private_key: { filename: identity.keyPath } },
]

function connectionManager(name: string, target: string, protocol: Protocol, filters: unknown[], more: Record<string, unknown>): unknown {
  return {
    name: 'envoy.filters.network.http_connection_manager',
    typed_config: {
      '@type': extension('filters.network.http_connection_manager.v3.HttpConnectionManager'),
      stat_prefix: name,
      route_config: {
        name,
        virtual_hosts: [{ name, domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: target } }] }],
      },
      http_filters: [
        ...filters,
        { name: 'envoy.filters.http.router', typed_config: { '@type': extension('filters.http.router.v3.Router') } },
      ],
      tracing: { random_sampling: {} },
      upgrade_configs: [{ upgrade_type: 'websocket' }],
      ...(protocol === 'grpc' ? { http2_protocol_options: {} } : {}),
      ...more,
    },
  }
}

/** The intentions of the app: this caller, and nobody else. */
function intentions(spiffeId: string): unknown {
  const regex = `^${spiffeId.replaceAll('.', '\\.')}$`
  return {
    name: 'envoy.filters.http.rbac',
    typed_config: {
      '@type': extension('filters.http.rbac.v3.RBAC'),
      rules: {
        policies: {
          'consul-intentions-layer4': {
            permissions: [{ any: true }],
            principals: [{ authenticated: { principal_name: { safe_regex: { regex } } } }],
          },
        },
      },
    },
  }
}

export interface UpstreamWish {
  name: string
  port: number
  next: number
}

/** The caller's sidecar: for each upstream a listener and a cluster. */
export function outboundConfig(ground: Ground, upstreams: UpstreamWish[]): unknown {
  const { web, api, rootPath, trustDomain } = ground.certificates
  const transport = tls(
    'UpstreamTlsContext',
    { sni: `api.default.dc1.internal.${trustDomain}` },
    {
      tls_certificates: certificateOf(web),
      validation_context: {
        trusted_ca: { filename: rootPath },
        match_typed_subject_alt_names: [{ san_type: 'URI', matcher: { exact: api.spiffeId } }],
      },
      ...(ground.protocol === 'grpc' ? { alpn_protocols: ['h2'] } : {}),
    },
  )
  return {
    static_resources: {
      listeners: upstreams.map(({ name, port }) => ({
        name: `${name}:127.0.0.1:${port}`,
        address: address(port),
        filter_chains: [{ filters: [connectionManager(`upstream.${name}`, name, ground.protocol, [], {})] }],
        traffic_direction: 'OUTBOUND',
      })),
      clusters: upstreams.map(({ name, next }) => cluster(name, next, ground.protocol, transport)),
    },
  }
}

function inboundConfig(ground: Ground, port: number): unknown {
  const { web, api, rootPath } = ground.certificates
  const manager = connectionManager('public_listener', 'local_app', ground.protocol, [intentions(web.spiffeId)], {
    forward_client_cert_details: 'APPEND_FORWARD',
    set_current_client_cert_details: { subject: true, cert: true, dns: true, uri: true, chain: true },
  })
  const transport = tls(
    'DownstreamTlsContext',
    { require_client_certificate: true },
    {
      tls_certificates: certificateOf(api),
      validation_context: { trusted_ca: { filename: rootPath } },
      alpn_protocols: ground.protocol === 'grpc' ? ['h2', 'http/1.1'] : ['http/1.1'],
    },
  )
  return {
    static_resources: {
      listeners: [
        {
          name: `public_listener:127.0.0.1:${port}`,
          address: address(port),
          filter_chains: [{ filters: [manager], transport_socket: transport }],
          traffic_direction: 'INBOUND',
        },
      ],
      clusters: [cluster('local_app', ground.backend[ground.protocol], ground.protocol)],
    },
  }
}

export async function startEnvoy(envoy: string, path: string, config: unknown, port: number): Promise<Running> {
  writeFileSync(path, JSON.stringify(config))
  const running = startOn('measured', envoy, ['-c', path, '--concurrency', '1', '--disable-hot-restart', '-l', 'error'])
  await listening(running, port)
  return running
}

/** `further` are upstreams that the caller has besides. */
export async function startEnvoyPair(envoy: string, ground: Ground, further = 0): Promise<Pair> {
  const [port, between] = (await freePorts(2)) as [number, number]
  const path = (name: string) => join(ground.directory, `envoy-${port}-${name}.json`)
  const inbound = await startEnvoy(envoy, path('inbound'), inboundConfig(ground, between), between)
  const ports = await bulkPorts(further)
  const all = [{ name: 'api', port, next: between }, ...ports.map((each, i) => ({ name: `service-${i}`, port: each, next: between }))]
  const outbound = await startEnvoy(envoy, path('outbound'), outboundConfig(ground, all), port)
  return pairOf(port, outbound, inbound)
}
