/**
 * Spending a token (spec/peering-wire.md 1.2, 4): checks it as a real dialer does, then exchanges its one-time secret for the secret
 * of the stream. What comes back to the operator on failure has a real Consul's words; a refused secret is never tried twice.
 */
import type { Clock } from '../../lib/clock.ts'
import { MeshError } from '../../lib/errors.ts'
import { decodeToken, type PeeringToken } from '../../mesh/peering-token.ts'
import { grpcCodes } from '../../wire/peer-stream.ts'
import { readRootCertificate } from './root-certificates.ts'
import type { Status } from './session.ts'
import type { PeerTransport, Target } from './transport.ts'

/** A real dialer's patience. */
const windowMs = 3000

export function readToken(text: string, own: { ownServerName: string; allowPlaintext: boolean }): PeeringToken {
  const decoded = decodeToken(text)
  if (!decoded.ok) throw invalid(decoded.message)
  const { token } = decoded
  if (token.serverName === own.ownServerName) {
    throw invalid(
      `cannot create a peering within the same cluster "${token.serverName}". Refer to the \`exported-services\` documentation if you want to export between partitions without peering`,
    )
  }
  if (token.ca.length === 0 && !own.allowPlaintext) {
    throw invalid('peering token has no CA, so its secrets would travel in plaintext; set peering.allow_plaintext to take it')
  }
  for (const pem of token.ca) {
    const read = readRootCertificate(pem)
    if (!read.ok) throw invalid(`peering token invalid CA: ${read.message}`)
  }
  return token
}

/** Where a token says that its cluster is dialled. */
export function dialledAddresses({ manualServerAddresses: manual, serverAddresses }: PeeringToken): string[] {
  return manual.length > 0 ? manual : serverAddresses
}

/** The secret of the stream. Goes through our own gateways first where peering passes them, then to the addresses themselves (11). */
export async function spendToken(token: PeeringToken, gateways: readonly string[], spender: Spender): Promise<string> {
  const addresses = dialledAddresses(token)
  const targets = (list: readonly string[]): Target[] => list.map(address => ({ address, serverName: token.serverName, caPems: token.ca }))
  let result: Exchange | undefined
  if (gateways.length > 0) result = await exchangeWithRetries(targets(gateways), token, spender)
  if (!result || (!result.ok && result.code !== grpcCodes.permissionDenied)) {
    result = await exchangeWithRetries(targets([...gateways, ...addresses]), token, spender)
  }
  if (!result.ok) throw exchangeError(result)
  if (result.streamSecret === '') throw invalid('failed to persist peering: invalid secret write request: missing secret ID')
  return result.streamSecret
}

/** What spending depends on besides the token. */
export interface Spender {
  transport: PeerTransport
  clock: Clock
  random: () => number
}

type Exchange = { ok: true; streamSecret: string } | { ok: false; code: number; attempts: { address: string; error: Status }[] }

/** Spends the establishment secret: for 3 s, every 150 ms or a little more, round the addresses; a refused secret ends it (4). */
async function exchangeWithRetries(
  targets: readonly Target[],
  token: PeeringToken,
  { transport, clock, random }: Spender,
): Promise<Exchange> {
  const attempts: { address: string; error: Status }[] = []
  const request = { PeerID: token.peerId, EstablishmentSecret: token.establishmentSecret }
  const end = clock.monotonicMs() + windowMs
  for (let i = 0; ; i += 1) {
    const target = targets[i % targets.length]!
    const answer = await transport.exchange(target, request, windowMs)
    if (answer.ok) return answer
    const { code } = answer.status
    attempts.push({ address: target.address, error: answer.status })
    const waitMs = 150 * (1 + 0.25 * random())
    const over = clock.monotonicMs() + waitMs >= end
    if (code === grpcCodes.permissionDenied || over) return { ok: false, code, attempts }
    await new Promise<void>(resolve => clock.after(waitMs, resolve))
  }
}

function exchangeError({ code, attempts }: Extract<Exchange, { ok: false }>): MeshError {
  if (code === grpcCodes.permissionDenied) {
    return new MeshError('permission-denied', `a new peering token must be generated: ${attempts.at(-1)?.error.message}`)
  }
  const lines = attempts.map(
    ({ address, error }) =>
      `\t* failed to exchange peering secret through address "${address}": rpc error: code = ${codeName(error.code)} desc = ${error.message}\n`,
  )
  const text = `${lines.length} error${lines.length === 1 ? '' : 's'} occurred:\n${lines.join('')}\n`
  return new MeshError(code === grpcCodes.unavailable ? 'unavailable' : 'invalid', text)
}

/** As Go prints a code: failedPrecondition -> FailedPrecondition. */
function codeName(code: number): string {
  const entry = Object.entries(grpcCodes).find(([, value]) => value === code)
  return entry ? entry[0][0]!.toUpperCase() + entry[0].slice(1) : `Code(${code})`
}

function invalid(message: string): MeshError {
  return new MeshError('invalid', message)
}
