/**
 * Which services the entry of an ingress or terminating gateway names (spec/http-api.md 4): those by name, and for `*` every ordinary one
 * of the listener's protocol that the entry does not name itself. Nothing here says that such a gateway is served.
 */
import { compareText } from '../../lib/order.ts'
import { isTypical } from '../../mesh/service.ts'
import type { Tables } from '../catalog/tables.ts'
import { exportable, neverExported } from '../peering/exported-names.ts'
import type { Noting } from './noting.ts'

export interface GatewayService {
  gateway: string
  kind: 'ingress-gateway' | 'terminating-gateway'
  service: string
  port: number
  protocol: string
  hosts: string[]
  caFile: string
  certFile: string
  keyFile: string
  sni: string
  fromWildcard: boolean
  createIndex: number
  modifyIndex: number
}

/** In the order of their names. */
export function gatewayServices(tables: Tables, gateway: string, noting: Noting): GatewayService[] {
  const rows = [...ingressRows(tables, gateway, noting), ...terminatingRows(tables, gateway, noting)]
  const named = new Set(rows.filter(row => row.service !== '*').map(row => row.service))
  const all = rows.flatMap(row =>
    row.service === '*'
      ? ordinary(tables, row, noting)
          .filter(name => !named.has(name))
          .map(of(row))
      : [row],
  )
  return all.sort((a, b) => compareText(a.service, b.service) || a.port - b.port)
}

const of =
  (row: GatewayService) =>
  (service: string): GatewayService => ({ ...row, service, fromWildcard: true })

/** The ingress gateways that expose a service. */
export function ingressGateways(tables: Tables, service: string, noting: Noting): string[] {
  return noting
    .note(tables.configEntries('ingress-gateway'))
    .map(entry => entry.name)
    .filter(gateway => gatewayServices(tables, gateway, noting).some(row => row.service.toLowerCase() === service.toLowerCase()))
}

function ingressRows(tables: Tables, gateway: string, noting: Noting): GatewayService[] {
  const entry = noting.note(tables.configEntry('ingress-gateway', gateway))
  if (!entry) return []
  const { createIndex, modifyIndex } = entry
  return entry.listeners.flatMap(({ port, protocol, services }) =>
    services.map(({ name, hosts }) => ({
      ...nothing,
      gateway: entry.name,
      kind: 'ingress-gateway' as const,
      service: name,
      port,
      protocol,
      hosts: hosts ?? [],
      createIndex,
      modifyIndex,
    })),
  )
}

function terminatingRows(tables: Tables, gateway: string, noting: Noting): GatewayService[] {
  const entry = noting.note(tables.configEntry('terminating-gateway', gateway))
  if (!entry) return []
  const { createIndex, modifyIndex } = entry
  return entry.services.map(({ name, caFile = '', certFile = '', keyFile = '', sni = '' }) => ({
    ...nothing,
    gateway: entry.name,
    kind: 'terminating-gateway' as const,
    service: name,
    caFile,
    certFile,
    keyFile,
    sni,
    createIndex,
    modifyIndex,
  }))
}

const nothing = { port: 0, protocol: '', hosts: [], caFile: '', certFile: '', keyFile: '', sni: '', fromWildcard: false }

function ordinary(tables: Tables, row: GatewayService, noting: Noting): string[] {
  return [...noting.note(tables.services()).keys()].filter(name => {
    const instances = exportable(name, noting.note(tables.instances(name)))
    const isOrdinary = name !== neverExported && instances.some(({ service }) => isTypical(service.kind))
    return isOrdinary && (row.protocol === '' || noting.note(tables.protocol(name)) === row.protocol)
  })
}

export function encodeGatewayService(row: GatewayService): unknown {
  return {
    Gateway: { Name: row.gateway },
    Service: { Name: row.service },
    GatewayKind: row.kind,
    ...(row.port === 0 ? {} : { Port: row.port }),
    ...(row.protocol === '' ? {} : { Protocol: row.protocol }),
    ...(row.hosts.length === 0 ? {} : { Hosts: row.hosts }),
    ...(row.caFile === '' ? {} : { CAFile: row.caFile }),
    ...(row.certFile === '' ? {} : { CertFile: row.certFile }),
    ...(row.keyFile === '' ? {} : { KeyFile: row.keyFile }),
    ...(row.sni === '' ? {} : { SNI: row.sni }),
    ...(row.fromWildcard ? { FromWildcard: true } : {}),
    CreateIndex: row.createIndex,
    ModifyIndex: row.modifyIndex,
  }
}

/** Where clients of an ingress gateway find a service: the hosts that its entry gives, else its name in DNS. */
export function addressesOf(row: GatewayService, datacenter: string, domain: string): string[] {
  if (row.kind !== 'ingress-gateway') return []
  const hosts = row.hosts.length > 0 ? row.hosts : [`${row.service}.ingress.${datacenter}.${domain}`]
  return hosts.map(host => `${host}:${row.port}`)
}
