/**
 * A tunnel: bytes both ways between two streams, with backpressure and half-close. The end of one direction ends the other side's
 * writing half only; an error or an early close of either side closes both, so that neither socket outlives the other.
 */
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'

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

  const close = (broken: Duplex | undefined, reset: boolean) => {
    if (closed) return
    closed = true
    clearTimeout(timer)
    for (const side of [left, right]) if (side !== broken) abandon(side, reset)
    broken?.destroy()
    options.onClose?.()
  }
  const watch = () => {
    const now = performance.now()
    const waitMs = Math.min(lastMs + limitMs, drainEndsMs) - now
    if (waitMs <= 0) return close(undefined, false)
    timer = setTimeout(watch, Math.min(waitMs, 2 ** 31 - 1))
    timer.unref()
  }
  for (const side of [left, right]) {
    const other = side === left ? right : left
    side.on('data', () => {
      lastMs = performance.now()
    })
    side.on('error', error => close(side, (error as NodeJS.ErrnoException).code === 'ECONNRESET'))
    side.on('close', () => {
      // Both halves done is the ordinary end; then the other side is closing by itself once its last bytes are written.
      if (other.destroyed || !side.readableEnded) close(side, false)
    })
    side.pipe(other)
  }
  if (left.destroyed || right.destroyed) close(undefined, false)
  else watch()
  return {
    get closed() {
      return closed
    },
    destroy: () => close(undefined, false),
    drain(quietMs, withinMs) {
      if (closed) return
      limitMs = quietMs
      drainEndsMs = Math.min(drainEndsMs, performance.now() + withinMs)
      clearTimeout(timer)
      watch()
    },
  }
}

/** Passes a reset on as a reset where the side is plain TCP. */
export function abandon(side: Duplex, reset: boolean): void {
  if (reset && side instanceof Socket && !(side instanceof TLSSocket) && !side.destroyed) side.resetAndDestroy()
  else side.destroy()
}
