/**
 * A tunnel: bytes both ways between two streams, with backpressure and half-close. The end of one direction ends the other side's
 * writing half only; an error or an early close of either side closes both, so that neither socket outlives the other. What did
 * not end by itself ends as a reset, so that nobody takes a part for the whole.
 */
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { Borrower } from '../lib/read-buffer.ts'
import { resetSocket } from '../lib/socket-reset.ts'
import { TurnWriter } from '../lib/turn-writer.ts'

export interface Tunnel {
  readonly closed: boolean
  /** Closes both sides at once. */
  destroy(): void
  /** Lets it run until nothing has passed for `quietMs`, at most for `limitMs`. */
  drain(quietMs: number, limitMs: number): void
}

export interface TunnelOptions {
  /** Closed after so long without a byte in either direction. */
  idleMs: number
  onClose?: () => void
}

export function openTunnel(left: Duplex, right: Duplex, options: TunnelOptions): Tunnel {
  let closed = false
  let lastMs = performance.now()
  let drainEndsMs = Infinity
  let limitMs = options.idleMs
  let timer: NodeJS.Timeout | undefined

  const close = (broken: Duplex | undefined) => {
    if (closed) return
    closed = true
    clearTimeout(timer)
    for (const side of [left, right]) if (side !== broken) abandon(side)
    broken?.destroy()
    options.onClose?.()
  }
  const watch = () => {
    const now = performance.now()
    const waitMs = Math.min(lastMs + limitMs, drainEndsMs) - now
    if (waitMs <= 0) return close(undefined)
    timer = setTimeout(watch, Math.min(waitMs, 2 ** 31 - 1))
    timer.unref()
  }
  for (const side of [left, right]) {
    const other = side === left ? right : left
    const borrower: Duplex & Borrower = side
    borrower.borrows = true
    // Only TLS brings several pieces in a turn.
    const writer = new TurnWriter(other, side instanceof TLSSocket)
    side.on('data', (bytes: Buffer) => {
      lastMs = performance.now()
      if (!writer.write(bytes)) side.pause()
    })
    other.on('drain', () => side.resume())
    side.on('end', () => other.end())
    side.on('error', () => close(side))
    side.on('close', () => {
      // Both halves done is the ordinary end; then the other side is closing by itself once its last bytes are written.
      if (other.destroyed || !side.readableEnded) close(side)
    })
    side.resume()
  }
  if (left.destroyed || right.destroyed) close(undefined)
  else watch()
  return {
    get closed() {
      return closed
    },
    destroy: () => close(undefined),
    drain(quietMs, withinMs) {
      if (closed) return
      limitMs = quietMs
      drainEndsMs = Math.min(drainEndsMs, performance.now() + withinMs)
      clearTimeout(timer)
      watch()
    },
  }
}

/** A reset where the side is plain TCP; TLS says so by leaving out its close_notify. */
function abandon(side: Duplex): void {
  if (side instanceof Socket && !(side instanceof TLSSocket)) resetSocket(side)
  else side.destroy()
}
