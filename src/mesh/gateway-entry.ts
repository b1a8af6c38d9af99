/**
 * Config entries of the gateways and routes that this version keeps but does not serve (spec/data-plane.md 9.9, http-api.md 7): they are
 * stored, checked with Consul's texts and read back, so that a tool that writes them works; `notServedYet` says so to whoever writes one.
 */
import * as z from 'zod'
import { HeaderModifiers, indexes, opaque } from './entry-members.ts'

const gatewayTls = z.object({
  enabled: z.boolean().default(false),
  sds: z.object({ clusterName: z.string().optional(), certResource: z.string().optional() }).optional(),
  tlsMinVersion: z.string().optional(),
  tlsMaxVersion: z.string().optional(),
  cipherSuites: z.array(z.string()).optional(),
})
const connectionLimits = {
  maxConnections: z.number().int().optional(),
  maxPendingRequests: z.number().int().optional(),
  maxConcurrentRequests: z.number().int().optional(),
  passiveHealthCheck: opaque.optional(),
}

export const IngressGateway = z.object({
  kind: z.literal('ingress-gateway'),
  name: z.string().default(''),
  tls: gatewayTls.default({ enabled: false }),
  listeners: z
    .array(
      z.object({
        port: z.number().int().default(0),
        protocol: z.string().default('tcp'),
        tls: gatewayTls.optional(),
        services: z
          .array(
            z.object({
              name: z.string().default(''),
              hosts: z.array(z.string()).nullable().default(null),
              tls: z.object({ sds: gatewayTls.shape.sds }).optional(),
              requestHeaders: HeaderModifiers.optional(),
              responseHeaders: HeaderModifiers.optional(),
              ...connectionLimits,
            }),
          )
          .default([]),
      }),
    )
    .default([]),
  defaults: z.object(connectionLimits).optional(),
  ...indexes,
})
export type IngressGateway = z.infer<typeof IngressGateway>

export const TerminatingGateway = z.object({
  kind: z.literal('terminating-gateway'),
  name: z.string().default(''),
  services: z
    .array(
      z.object({
        name: z.string().default(''),
        caFile: z.string().optional(),
        certFile: z.string().optional(),
        keyFile: z.string().optional(),
        sni: z.string().optional(),
      }),
    )
    .default([]),
  ...indexes,
})
export type TerminatingGateway = z.infer<typeof TerminatingGateway>

const reference = z.object({ kind: z.string().default(''), name: z.string().default(''), sectionName: z.string().default('') })
const status = z.object({ conditions: z.array(opaque).nullable().default(null) })

export const ApiGateway = z.object({
  kind: z.literal('api-gateway'),
  name: z.string().default(''),
  listeners: z
    .array(
      z.object({
        name: z.string().default(''),
        hostname: z.string().default(''),
        port: z.number().int().default(0),
        protocol: z.string().default(''),
        tls: z
          .object({
            certificates: z.array(reference).nullable().default(null),
            maxVersion: z.string().default(''),
            minVersion: z.string().default(''),
            cipherSuites: z.array(z.string()).nullable().default(null),
          })
          .default({ certificates: null, maxVersion: '', minVersion: '', cipherSuites: null }),
      }),
    )
    .default([]),
  status: status.default({ conditions: null }),
  ...indexes,
})
export type ApiGateway = z.infer<typeof ApiGateway>

const filters = z
  .object({ headers: z.array(opaque).nullable().default(null), urlRewrite: opaque.nullable().default(null) })
  .default({ headers: null, urlRewrite: null })

export const HttpRoute = z.object({
  kind: z.literal('http-route'),
  name: z.string().default(''),
  parents: z.array(reference).default([]),
  rules: z
    .array(
      z.object({
        filters,
        matches: z
          .array(
            z.object({
              headers: z.array(opaque).nullable().default(null),
              method: z.string().default(''),
              path: z.object({ match: z.string().default(''), value: z.string().default('') }).default({ match: '', value: '' }),
              query: z.array(opaque).nullable().default(null),
            }),
          )
          .default([]),
        services: z.array(z.object({ name: z.string().default(''), weight: z.number().int().default(1), filters })).default([]),
      }),
    )
    .default([]),
  hostnames: z.array(z.string()).nullable().default(null),
  status: status.default({ conditions: null }),
  ...indexes,
})
export type HttpRoute = z.infer<typeof HttpRoute>

export const TcpRoute = z.object({
  kind: z.literal('tcp-route'),
  name: z.string().default(''),
  parents: z.array(reference).default([]),
  services: z.array(z.object({ name: z.string().default('') })).default([]),
  status: status.default({ conditions: null }),
  ...indexes,
})
export type TcpRoute = z.infer<typeof TcpRoute>

/** Never stored: nothing serves it, and a private key that nobody needs is kept nowhere. */
export const InlineCertificate = z.object({
  kind: z.literal('inline-certificate'),
  name: z.string().default(''),
  certificate: z.string().default(''),
  privateKey: z.string().default(''),
  ...indexes,
})
export type InlineCertificate = z.infer<typeof InlineCertificate>

const unserved: ReadonlySet<string> = new Set(['ingress-gateway', 'terminating-gateway', 'api-gateway', 'http-route', 'tcp-route'])

/** What whoever writes an entry of such a kind is told; undefined for a kind that is served. */
export function notServedYet(kind: string): string | undefined {
  return unserved.has(kind) ? `entries of kind ${JSON.stringify(kind)} are stored, but this version serves nothing by them` : undefined
}

type Checked = IngressGateway | TerminatingGateway | ApiGateway | HttpRoute | TcpRoute | InlineCertificate

export function checkGatewayEntry(entry: Checked): string | undefined {
  if (entry.name === '') return 'Name is required'
  switch (entry.kind) {
    case 'ingress-gateway':
      return first(ingressProblems(entry))
    case 'terminating-gateway':
      return first(terminatingProblems(entry))
    case 'api-gateway':
      return first(apiGatewayProblems(entry))
    case 'inline-certificate':
      return certificateProblem(entry)
    case 'http-route':
    case 'tcp-route':
      return undefined
  }
}

function first(problems: Iterable<string>): string | undefined {
  for (const problem of problems) return problem
  return undefined
}

const ingressProtocols = new Set(['tcp', 'http', 'http2', 'grpc'])

function* ingressProblems({ listeners }: IngressGateway): Iterable<string> {
  const ports = new Set<number>()
  for (const { port, protocol, services } of listeners) {
    const at = `(listener on port ${port})`
    if (ports.has(port)) yield `port ${port} declared on two listeners`
    ports.add(port)
    if (!ingressProtocols.has(protocol)) {
      yield `protocol must be 'tcp', 'http', 'http2', or 'grpc'. '${protocol}' is an unsupported protocol`
    }
    if (services.length === 0) yield `No service declared for listener with port ${port}`
    if (protocol === 'tcp' && services.length > 1) {
      yield `Multiple services per listener are only supported for L7 protocols, 'http', 'grpc' and 'http2' ${at}`
    }
    const names = new Set<string>()
    const declared = new Set<string>()
    for (const { name, hosts } of services) {
      if (protocol === 'tcp' && name === '*') yield `Wildcard service name is only valid for protocol = 'http' ${at}`
      if (protocol === 'tcp' && hosts?.length) yield `Associating hosts to a service is not supported for the tcp protocol ${at}`
      if (name === '') yield `Service name cannot be blank ${at}`
      if (name === '*' && hosts?.length) yield `Associating hosts to a wildcard service is not supported ${at}`
      if (names.has(name)) yield `Service ${name} cannot be added multiple times ${at}`
      names.add(name)
      for (const host of hosts ?? []) {
        if (declared.has(host)) yield `Hosts must be unique within a specific listener ${at}`
        declared.add(host)
      }
    }
  }
}

function* terminatingProblems({ services }: TerminatingGateway): Iterable<string> {
  const names = new Set<string>()
  for (const { name, certFile = '', keyFile = '' } of services) {
    if (name === '') yield 'Service name cannot be blank.'
    if (names.has(name)) yield `Service ${JSON.stringify(name)} was specified more than once within a namespace`
    names.add(name)
    if ((certFile === '') !== (keyFile === '')) {
      yield `Service ${JSON.stringify(name)} must have a CertFile, CAFile, and KeyFile specified for TLS origination`
    }
  }
}

function* apiGatewayProblems({ listeners }: ApiGateway): Iterable<string> {
  if (listeners.length === 0) yield 'api gateway must have at least one listener'
  const names = new Set<string>()
  for (const { name, port, protocol } of listeners) {
    if (names.has(name)) yield `found multiple listeners with the name ${JSON.stringify(name)}`
    names.add(name)
    if (protocol !== '' && protocol !== 'http' && protocol !== 'tcp') yield `unsupported listener protocol: ${JSON.stringify(protocol)}`
    if (port < 1 || port > 65535) yield `listener port ${port} not in the range 1-65535`
  }
}

function certificateProblem({ certificate, privateKey }: InlineCertificate): string {
  if (!/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]+-----END [A-Z ]*PRIVATE KEY-----/.test(privateKey))
    return 'failed to parse private key PEM'
  if (!/-----BEGIN CERTIFICATE-----[\s\S]+-----END CERTIFICATE-----/.test(certificate)) return 'failed to parse certificate PEM'
  return 'inline-certificate is not served by this version, and a private key that nobody needs is not stored; keep it where it is used'
}
