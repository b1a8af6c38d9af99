/**
 * What one of us says to another when it answers 503 because no app could be reached: nothing was sent to any, so that the request may be
 * sent elsewhere whatever its method. Invariants: it is said only on a connection that was agreed on between two of us (ALPN), and believed
 * only there, where it may be said on; else both codecs drop the field wherever it comes from, so that no app ever sees it, or says it for
 * its sidecar.
 */

export const unreachedHeader = 'x-isthmus-app-unreached'

/** As fields of an answer, flat. */
export const unreachedFields: readonly string[] = [unreachedHeader, '1']

/** Of a failure to connect: too much at once is no sign that the app is gone, and a mistake of ours says nothing about it. */
export function saysUnreached(status: number, reason: string): boolean {
  return status === 503 && reason !== 'overflow'
}
