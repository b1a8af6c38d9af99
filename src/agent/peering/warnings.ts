/** What an operator should know of a peering beyond its state, in words: what is left out, what was refused, and what to do. */
import type { PeeringFreshness } from '../../mesh/peering.ts'
import { messageLimits } from '../../wire/peer-stream.ts'
import type { Tables } from '../catalog/tables.ts'
import type { SessionStatus } from './session.ts'

/** Names that one warning lists. */
const maxNamed = 10

/** What only an operator can put right (peering-wire.md 5.2, 9.1). */
function adviceOn(error: string): string {
  if (/unknown PeerID|marked as deleted/.test(error))
    return '; it was deleted there: delete it here, or establish it again with a new token'
  if (/invalid peering stream secret|must be re-established/.test(error)) return '; establish it again with a new token'
  return ''
}

export function warningsOf(
  status: SessionStatus | undefined,
  peer: string,
  tables: Tables,
  freshness: PeeringFreshness | undefined,
): string[] {
  if (!status) return []
  const warnings: string[] = []
  if (freshness?.state === 'FROZEN') {
    const since = freshness.ageMs === null ? 'since this agent started' : `for ${Math.round(freshness.ageMs / 1000)}s`
    warnings.push(
      `the peer is connected, yet has not confirmed all that it exports ${since}; what is imported may stand still: look at what is refused here, else its operator at its agent`,
    )
  }
  if (!status.connected && status.error)
    warnings.push(`the stream to the peer ended: ${status.error.message}${adviceOn(status.error.message)}`)
  for (const { id, bytes } of status.oversized) {
    warnings.push(
      `${id} is not exported: its definitions take ${bytes} bytes and a message at most ${messageLimits.sent}; register fewer or smaller instances under this name`,
    )
  }
  if (status.refusedBundle !== undefined) {
    warnings.push(
      `the trust bundle of the peer is refused: ${status.refusedBundle}; its services cannot be called until its operator changes that`,
    )
  }
  const { lastNack, lastRefusal } = status
  if (lastNack) warnings.push(`the peer refused what was sent last: ${lastNack.message}`)
  if (lastRefusal && lastRefusal.message !== status.refusedBundle)
    warnings.push(`refused ${lastRefusal.id} from the peer: ${lastRefusal.message}`)
  // What is on its way into or out of the store is not missing.
  const listed = status.storing ? [] : (status.importedServices ?? [])
  const empty = listed.filter(name => tables.instances(name, peer).value.length === 0)
  if (empty.length > 0) {
    const more = empty.length > maxNamed ? ` and ${empty.length - maxNamed} more` : ''
    warnings.push(
      `exported by the peer, yet no instance came: ${empty.slice(0, maxNamed).join(', ')}${more}; not registered there, or too large to be sent: its operator sees which`,
    )
  }
  return warnings
}
