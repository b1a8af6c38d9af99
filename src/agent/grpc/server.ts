/** The gRPC door. Being written: signature first. */
import type { Logger } from '../../lib/log.ts'
import type { CertificateAuthority } from '../ca/authority.ts'
import type { Peerings } from '../peering/peerings.ts'

export interface GrpcDoorOptions {
  address: string
  /** TLS port; 0 picks one. */
  port: number
  /** Also serve in plaintext here; 0 picks one, undefined serves none. */
  plaintextPort?: number
  ca: CertificateAuthority
  peerings: Peerings
  logger: Logger
}

export interface GrpcDoor {
  port: number
  plaintextPort?: number
  close(): Promise<void>
}

export function startGrpcDoor(_options: GrpcDoorOptions): Promise<GrpcDoor> {
  throw new Error('being written')
}
