/** What operators ask of peerings, and the refusals that need no look at a peering: in the order and words of a real Consul (http-api.md 6). */
import { MeshError } from '../../lib/errors.ts'
import { peerNamePattern, type Peering } from '../../mesh/peering.ts'
import { checkMeta } from '../../mesh/registration.ts'

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

export interface PeeringSwitches {
  peering: boolean
  connect: boolean
  grpcTls: boolean
}

export function checkEnabled({ peering }: PeeringSwitches): void {
  if (!peering) throw invalid('peering must be enabled to use this endpoint')
}

export function checkTokenRequest({ peerName, partition, meta }: GenerateTokenRequest, enabled: PeeringSwitches): void {
  checkEnabled(enabled)
  checkName(peerName, 'generating a new peering token')
  if ((partition ?? '') !== '' && partition !== 'default') throw invalid('Partitions are a Consul Enterprise feature')
  checkTags(meta)
  if (!enabled.connect) throw invalid("connect.enabled must be set to true in the server's configuration when generating peering tokens")
  if (!enabled.grpcTls) throw invalid('TLS for gRPC must be enabled when generating peering tokens')
}

export function checkEstablishRequest({ peerName, peeringToken, meta }: EstablishRequest, enabled: PeeringSwitches): void {
  checkEnabled(enabled)
  checkName(peerName, 'establishing a peering')
  if (peeringToken === '') throw badRequest('PeeringToken is required in the payload when establishing a peering.')
  checkTags(meta)
}

export function checkWritable(peering: Peering | undefined): void {
  if (peering?.state === 'DELETING') throw invalid('cannot write to peering that is marked for deletion')
}

function checkName(name: string, doing: string): void {
  if (name === '') throw badRequest(`PeerName is required in the payload when ${doing}.`)
  if (peerNamePattern.test(name)) return
  throw invalid(
    `${name} is not a valid peer name: a valid peering name must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character`,
  )
}

function checkTags(meta: Record<string, string> = {}): void {
  const problem = checkMeta(meta)
  if (problem !== undefined) throw invalid(`meta tags failed validation: ${problem}`)
}

export function invalid(message: string): MeshError {
  return new MeshError('invalid', message)
}

function badRequest(message: string): MeshError {
  return new MeshError('bad-request', message)
}
