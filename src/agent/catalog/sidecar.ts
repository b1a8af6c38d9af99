/** The sidecar that `Connect.SidecarService` asks for: a second service beside its parent, with defaults from it (spec/data-plane.md 11.2). */
import type { CheckDefinition } from '../../mesh/check.ts'
import { definedChecks, nodeServiceOf } from '../../mesh/registration.ts'
import type { NodeService, ServiceDefinition } from '../../mesh/service.ts'
import { hostPort } from '../../lib/address.ts'

export interface Sidecar {
  service: NodeService
  checks: CheckDefinition[]
}

export function sidecarId(serviceId: string): string {
  return `${serviceId}-sidecar-proxy`
}

/** `port` is asked only when the definition gives none. */
export function expandSidecar(definition: ServiceDefinition, parent: NodeService, port: () => number): Sidecar | undefined {
  const given = definition.connect?.sidecarService
  if (!given) return undefined
  const own = nodeServiceOf({ ...given, name: given.name || `${parent.service}-sidecar-proxy` })
  const service: NodeService = {
    ...own,
    kind: 'connect-proxy',
    id: sidecarId(parent.id),
    address: own.address || parent.address,
    tags: own.tags.length > 0 ? own.tags : parent.tags,
    meta: Object.keys(own.meta ?? {}).length > 0 ? own.meta : parent.meta,
    locality: own.locality ?? parent.locality,
    port: own.port || (own.socketPath ? undefined : port()),
    proxy: {
      ...own.proxy,
      destinationServiceName: own.proxy.destinationServiceName || parent.service,
      destinationServiceId: own.proxy.destinationServiceId || parent.id,
      localServiceAddress: own.proxy.localServiceAddress || '127.0.0.1',
      ...localApp(own, parent),
    },
  }
  const checks = definedChecks(given)
  return { service, checks: checks.length > 0 ? checks : defaultChecks(service, parent.id) }
}

function localApp(own: NodeService, parent: NodeService): { localServicePort?: number; localServiceSocketPath?: string } {
  const { localServicePort, localServiceSocketPath } = own.proxy
  if (localServicePort || localServiceSocketPath) return { localServicePort, localServiceSocketPath }
  return parent.socketPath && !parent.port ? { localServiceSocketPath: parent.socketPath } : { localServicePort: parent.port }
}

function defaultChecks(service: NodeService, parentId: string): CheckDefinition[] {
  const alias: CheckDefinition = { name: `Connect Sidecar Aliasing ${parentId}`, aliasService: parentId }
  if (!service.port) return [alias]
  const address = hostPort(service.proxy.localServiceAddress ?? '127.0.0.1', service.port)
  return [{ name: 'Connect Sidecar Listening', tcp: address, intervalMs: 10_000 }, alias]
}
