/**
 * Every write of the catalog: registrations, deregistrations and imported sets. A registration is one store transaction; an
 * identical one writes nothing. Each method resolves when the write is durable and visible in this process's own tables.
 */
import type { HealthCheck } from '../../mesh/check.ts'
import type { Locality } from '../../mesh/node.ts'
import type { CheckServiceNode, NodeService } from '../../mesh/service.ts'
import type { Store } from '../store/store.ts'
import type { Tables } from './tables.ts'

/** The body of PUT /v1/catalog/register (spec/http-api.md 4), decoded. */
export interface RegisterRequest {
  node: string
  address?: string
  id?: string
  datacenter?: string
  taggedAddresses?: Record<string, string> | null
  nodeMeta?: Record<string, string> | null
  locality?: Locality
  peerName?: string
  skipNodeUpdate?: boolean
  service?: Partial<NodeService>
  check?: Partial<HealthCheck>
  checks?: Partial<HealthCheck>[]
}

export class Catalog {
  constructor(_options: { store: Store; tables: Tables; datacenter: string }) {}
  register(_request: RegisterRequest): Promise<void> { throw todo() }
  deregister(_request: { node: string; serviceId?: string; checkId?: string }): Promise<void> { throw todo() }
  replaceImported(_peer: string, _service: string, _instances: CheckServiceNode[], _receivedAtMs: number): Promise<void> { throw todo() }
  sweepImported(_peer: string, _keep: (service: string) => boolean): Promise<void> { throw todo() }
  purgeImported(_peer: string): Promise<void> { throw todo() }
}
function todo(): Error { return new Error('being written') }
