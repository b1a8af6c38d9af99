/** What the HTTP door serves: the parts of one agent, as agent.ts wires them. The door reads and calls them; it owns none. */
import type { Registry } from '../../lib/metrics.ts'
import type { CertificateAuthority } from '../ca/authority.ts'
import type { Catalog } from '../catalog/catalog.ts'
import type { ConfigEntries } from '../catalog/config-entries.ts'
import type { KvStore } from '../catalog/kv.ts'
import type { LocalAgent } from '../catalog/local-agent.ts'
import type { Sessions } from '../catalog/sessions.ts'
import type { Tables } from '../catalog/tables.ts'
import type { Transactions } from '../catalog/transactions.ts'
import type { Peerings } from '../peering/peerings.ts'
import type { Snapshots } from '../snapshots/snapshots.ts'

/** The facts about this agent that its API tells. */
export interface AgentFacts {
  datacenter: string
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
  /** --dev: every JSON answer is printed for people. */
  dev: boolean
}

export interface AgentParts {
  config: AgentFacts
  tables: Tables
  catalog: Catalog
  configEntries: ConfigEntries
  kv: KvStore
  sessions: Sessions
  transactions: Transactions
  localAgent: LocalAgent
  ca: CertificateAuthority
  peerings: Peerings
  snapshots: Snapshots
  metrics: Registry
  defaultAclPolicy: 'allow' | 'deny'
}

/** The version of Consul whose API this is (spec/http-api.md, baseline): clients choose their behaviour by it. */
export const consulVersion = '1.16.4'
