/**
 * A stream of bytes both ways as the HTTP code and the pools use it: what sockets of Node and streams of the multiplexer have in common.
 * It flows from the moment somebody listens for `data`, until it is paused.
 */

export interface ByteStream {
  readonly destroyed: boolean
  /** What is written is copied before `write` returns: it may be borrowed (read-buffer.ts). */
  readonly copies?: boolean
  /** `close` was emitted. */
  readonly closed: boolean
  readonly writable: boolean
  /** `end` was emitted. */
  readonly readableEnded: boolean
  /** Bytes that came and were not handed out yet. */
  readonly readableLength: number
  /** Bytes that were written and have not left yet. */
  readonly writableLength: number
  /** A write answered false and `drain` has not come yet. */
  readonly writableNeedDrain: boolean
  isPaused(): boolean
  pause(): unknown
  resume(): unknown
  /** False: wait for `drain` before more. Text is latin1. */
  write(data: string, encoding: 'latin1'): boolean
  /** `written` is called when the bytes are no longer read; not by a stream that copies. */
  write(data: Buffer, written?: (error?: Error | null) => void): boolean
  /** Half-closes; `done` is called once everything is on its way. */
  end(done?: () => void): unknown
  cork(): void
  uncork(): void
  /** Breaks it off: the other side can tell that it is no clean end. */
  destroy(): unknown
  on(event: 'data', listener: (chunk: Buffer) => void): unknown
  on(event: 'end' | 'drain' | 'close', listener: () => void): unknown
  on(event: 'error', listener: (error: Error) => void): unknown
  once(event: 'close', listener: () => void): unknown
}
