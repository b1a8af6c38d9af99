/**
 * An Envoy without a control plane, configured by a file as Consul 1.16 configures an importer's sidecar and an exporter's mesh gateway
 * (golden/envoy): the same filters, TLS and names. What is on the wire is Envoy's own.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePorts } from '../support/free-ports.ts'
import type { Minted } from '../support/mint.ts'
import { call, start, until, type Running } from '../support/processes.ts'

export const extension = (path: string) => `type.googleapis.com/envoy.extensions.${path}`
export const at = (port: number) => ({ socket_address: { address: '127.0.0.1', port_value: port } })

/** Whom to believe, and who one is. */
interface Tls {
  leaf: Minted
  root: Minted
}

function tls(
  kind: 'UpstreamTlsContext' | 'DownstreamTlsContext',
  { leaf, root }: Tls,
  more: object,
  common: object,
  validation: object,
): object {
  const certificate = { certificate_chain: { filename: leaf.certPath }, private_key: { filename: leaf.keyPath } }
  return {
    name: 'tls',
    typed_config: {
      '@type': extension(`transport_sockets.tls.v3.${kind}`),
      ...more,
      common_tls_context: {
        tls_params: {},
        tls_certificates: [certificate],
        validation_context: { trusted_ca: { filename: root.certPath }, ...validation },
        ...common,
      },
    },
  }
}

export interface Cluster extends Tls {
  name: string
  port: number
  sni: string
  ids: string[]
  protocol: 'http' | 'http2' | 'tcp'
}

function cluster({ name, port, sni, ids, protocol, ...who }: Cluster): object {
  const alpn = { http: ['http/1.1'], http2: ['h2'], tcp: undefined }[protocol]
  const http2 = {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
      '@type': extension('upstreams.http.v3.HttpProtocolOptions'),
      explicit_http_config: { http2_protocol_options: {} },
    },
  }
  const match = { match_typed_subject_alt_names: ids.map(exact => ({ san_type: 'URI', matcher: { exact } })) }
  return {
    name,
    type: 'STATIC',
    connect_timeout: '5s',
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address: at(port) } }] }] },
    transport_socket: tls('UpstreamTlsContext', who, { sni }, alpn ? { alpn_protocols: alpn } : {}, match),
    ...(protocol === 'http2' ? { typed_extension_protocol_options: http2 } : {}),
  }
}

function filter(name: string, protocol: Cluster['protocol'], more: object): object {
  if (protocol === 'tcp') {
    const typed_config = { '@type': extension('filters.network.tcp_proxy.v3.TcpProxy'), stat_prefix: name, cluster: name }
    return { name: 'envoy.filters.network.tcp_proxy', typed_config }
  }
  return {
    name: 'envoy.filters.network.http_connection_manager',
    typed_config: {
      '@type': extension('filters.network.http_connection_manager.v3.HttpConnectionManager'),
      stat_prefix: name,
      route_config: { name, virtual_hosts: [{ name, domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: name } }] }] },
      http_filters: [{ name: 'envoy.filters.http.router', typed_config: { '@type': extension('filters.http.router.v3.Router') } }],
      upgrade_configs: [{ upgrade_type: 'websocket' }, { upgrade_type: 'echo' }],
      ...more,
    },
  }
}

/** A listener for each upstream. */
export function sidecarConfig(upstreams: (Cluster & { listen: number })[]): object {
  return {
    listeners: upstreams.map(({ name, listen, protocol }) => ({
      name,
      address: at(listen),
      filter_chains: [{ filters: [filter(name, protocol, {})] }],
    })),
    clusters: upstreams.map(cluster),
  }
}

export interface Exported extends Cluster {
  /** The name that callers ask for. */
  externalSni: string
  /** What callers are believed by. */
  callers: Minted
}

/** Http ends here and goes on with the gateway's leaf; of tcp the bytes pass. */
export function gatewayConfig(listen: number, exported: Exported[]): object {
  const forwarded = {
    forward_client_cert_details: 'SANITIZE_SET',
    set_current_client_cert_details: { subject: true, cert: true, chain: true, dns: true, uri: true },
  }
  const chains = exported.map(({ name, protocol, externalSni, leaf, callers }) => ({
    filter_chain_match: { server_names: [externalSni] },
    filters: [filter(name, protocol, forwarded)],
    ...(protocol === 'tcp'
      ? {}
      : { transport_socket: tls('DownstreamTlsContext', { leaf, root: callers }, { require_client_certificate: true }, {}, {}) }),
  }))
  const inspector = { '@type': extension('filters.listener.tls_inspector.v3.TlsInspector') }
  return {
    listeners: [
      {
        name: 'gateway',
        address: at(listen),
        listener_filters: [{ name: 'envoy.filters.listener.tls_inspector', typed_config: inspector }],
        filter_chains: chains,
      },
    ],
    clusters: exported.map(each => (each.protocol === 'tcp' ? passing(each) : cluster(each))),
  }
}

function passing({ name, port }: Cluster): object {
  return {
    name,
    type: 'STATIC',
    connect_timeout: '5s',
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address: at(port) } }] }] },
  }
}

export interface StaticEnvoy {
  running: Running
  /** A number of its statistics. */
  stat(name: string): Promise<number>
  stop(): Promise<void>
}

export async function startStatic(envoy: string, directory: string, resources: object): Promise<StaticEnvoy> {
  const [admin] = (await freePorts(1)) as [number]
  const path = join(directory, `envoy-${admin}.json`)
  // As in Consul's bootstrap: identities make longer regexes than Envoy would take.
  const layered_runtime = { layers: [{ name: 'base', static_layer: { 're2.max_program_size.error_level': 1_048_576 } }] }
  writeFileSync(path, JSON.stringify({ admin: { address: at(admin) }, static_resources: resources, layered_runtime }))
  const running = start(envoy, ['-c', path, '--concurrency', '1', '--disable-hot-restart', '-l', 'error'])
  await until('Envoy is ready', async () => {
    if (running.child.exitCode !== null) throw new Error(`it ended: ${running.log().slice(-2000)}`)
    return (await call(admin, '/ready')).status === 200
  })
  const stat = async (name: string) => {
    const { text } = await call(admin, `/stats?filter=^${name.replaceAll('.', '\\.')}$`)
    return Number(/: (\d+)/.exec(text)?.[1] ?? 0)
  }
  return { running, stat, stop: () => running.stop() }
}
