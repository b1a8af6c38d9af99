/** What the HTTP door serves: the parts of one agent, as agent.ts wires them. The door reads and calls them; it owns none. */
import type { LogTap } from '../../lib/log.ts'
import type { Registry } from '../../lib/metrics.ts'
import type { CertificateAuthority } from '../ca/authority.ts'
import type { Backup } from '../catalog/backup.ts'
import type { Catalog } from '../catalog/catalog.ts'
import type { ConfigEntries } from '../catalog/config-entries.ts'
import type { KvStore } from '../catalog/kv.ts'
import type { LocalAgent } from '../catalog/local-agent.ts'
import type { Queries } from '../catalog/queries.ts'
import type { Sessions } from '../catalog/sessions.ts'
import type { Tables } from '../catalog/tables.ts'
import type { Transactions } from '../catalog/transactions.ts'
import type { Peerings } from '../peering/peerings.ts'
import type { Snapshots } from '../snapshots/snapshots.ts'
import type { Coordinates } from './coordinate.ts'
import type { UserEvents } from './event.ts'
import type { AutopilotSettings } from './operator.ts'

/** The facts about this agent that its API tells. */
export interface AgentFacts {
  datacenter: string
  /** The zone of DNS, without its last dot. */
  domain: string
  nodeName: string
  nodeId: string
  /** isthmus's own version; clients are told the Consul version whose API this is (`consulVersion`). */
  version: string
  nodeMeta: Record<string, string>
  advertiseAddr: string
  /** The ports that are open; undefined where a door is closed. */
  ports: { http?: number; dns?: number; grpc?: number; grpcTls?: number }
  connectEnabled: boolean
  peeringEnabled: boolean
  /** RFC 3339, when this agent came up. */
  startedAt: string
  /** --dev: every JSON answer is printed for people. */
  dev: boolean
}

/** What a client may have the whole agent do. */
export interface Lifecycle {
  /** Reads the configuration again; answers once its services and checks are registered. */
  reload(): Promise<void>
  /** Ends the agent gracefully, after the answer. */
  leave(): void
}

export interface AgentParts {
  config: AgentFacts
  tables: Tables
  catalog: Catalog
  configEntries: ConfigEntries
  kv: KvStore
  sessions: Sessions
  transactions: Transactions
  queries: Queries
  backup: Backup
  events: UserEvents
  coordinates: Coordinates
  autopilot: AutopilotSettings
  localAgent: LocalAgent
  ca: CertificateAuthority
  peerings: Peerings
  snapshots: Snapshots
  metrics: Registry
  logs: LogTap
  lifecycle: Lifecycle
  defaultAclPolicy: 'allow' | 'deny'
}

/** The version of Consul whose API this is (spec/http-api.md, baseline): clients choose their behaviour by it. */
export const consulVersion = '1.16.4'
