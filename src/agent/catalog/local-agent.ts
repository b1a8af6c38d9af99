/**
 * What THIS agent was asked to run: its services and checks, durable, synced into the catalog before a call answers.
 */
import type { Clock } from '../../lib/clock.ts'
import type { Logger } from '../../lib/log.ts'
import type { CheckDefinition, CheckStatus, HealthCheck } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import type { NodeService, ServiceDefinition } from '../../mesh/service.ts'
import type { Store } from '../store/store.ts'
import type { Catalog } from './catalog.ts'
import type { Tables } from './tables.ts'

export interface LocalAgentOptions {
  store: Store
  tables: Tables
  catalog: Catalog
  /** This agent's own node. */
  node: Node
  clock: Clock
  logger: Logger
  sidecarPorts: { min: number; max: number }
  /** Port and meta of the `consul` service instance of this server. */
  serverService?: { port: number; meta: Record<string, string> }
  /** How long changes of a check's output alone are held back; 5 minutes unless told. */
  checkUpdateIntervalMs?: number
}

export class LocalAgent {
  constructor(_options: LocalAgentOptions) {}
  start(): Promise<void> { throw todo() }
  registerService(_definition: ServiceDefinition, _options: { replaceExistingChecks?: boolean } = {}): Promise<void> { throw todo() }
  deregisterService(_id: string): Promise<void> { throw todo() }
  registerCheck(_definition: CheckDefinition): Promise<void> { throw todo() }
  deregisterCheck(_id: string): Promise<void> { throw todo() }
  updateTtl(_checkId: string, _status: CheckStatus, _output: string): Promise<void> { throw todo() }
  setServiceMaintenance(_id: string, _enable: boolean, _reason?: string): Promise<void> { throw todo() }
  setNodeMaintenance(_enable: boolean, _reason?: string): Promise<void> { throw todo() }
  services(): Map<string, NodeService> { throw todo() }
  service(_id: string): NodeService | undefined { throw todo() }
  checks(): Map<string, HealthCheck> { throw todo() }
  close(): Promise<void> { throw todo() }
}
function todo(): Error { return new Error('being written') }
