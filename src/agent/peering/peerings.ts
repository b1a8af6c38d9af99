/** The peerings of this cluster: what operators ask for and what becomes of it. Being written: signatures first. */
import type { Clock } from '../../lib/clock.ts'
import type { Logger } from '../../lib/log.ts'
import type { Registry } from '../../lib/metrics.ts'
import type { Peering } from '../../mesh/peering.ts'
import type { CertificateAuthority } from '../ca/authority.ts'
import type { Catalog } from '../catalog/catalog.ts'
import type { Reading, Tables } from '../catalog/tables.ts'
import type { Store } from '../store/store.ts'

export interface PeeringsOptions {
  store: Store
  tables: Tables
  catalog: Catalog
  ca: CertificateAuthority
  datacenter: string
  clock: Clock
  logger: Logger
  metrics: Registry
  /** Own host:port of grpc_tls, as others dial it. */
  addresses: () => string[]
  enabled: { peering: boolean; connect: boolean; grpcTls: boolean }
  /** Whether a token without CA may be dialled in plaintext. */
  allowPlaintext: boolean
}

export interface GenerateTokenRequest {
  peerName: string
  meta?: Record<string, string>
  serverExternalAddresses?: string[]
  partition?: string
}

export interface EstablishRequest {
  peerName: string
  peeringToken: string
  meta?: Record<string, string>
  partition?: string
}

export class Peerings {
  constructor(_options: PeeringsOptions) {}
  start(): Promise<void> {
    throw todo()
  }
  close(): Promise<void> {
    throw todo()
  }
  generateToken(_request: GenerateTokenRequest): Promise<string> {
    throw todo()
  }
  establish(_request: EstablishRequest): Promise<void> {
    throw todo()
  }
  delete(_name: string): Promise<void> {
    throw todo()
  }
  read(_name: string): Reading<Peering | undefined> {
    throw todo()
  }
  list(): Reading<Peering[]> {
    throw todo()
  }
}

function todo(): Error {
  return new Error('being written')
}
