/** Every limit of the multiplexer, named and with its default. */

export interface MuxLimits {
  /** Streams that the other side may have open in one session; one more is reset. With the window this bounds what a session can make us hold. */
  maxStreams: number
  /** Bytes waiting in the connection below, above which writers are told to wait. */
  maxUnsentBytes: number
  /** Bytes that leave at once, without waiting for the end of the turn. */
  flushBytes: number
  /** A ping is sent when nothing was heard for so long ... */
  pingAfterMs: number
  /** ... and the session is dead when nothing at all is heard for so long after it. */
  pongWithinMs: number
  /** Frames that carry neither bytes nor a window worth the name (pings, resets, ends, go-aways, windows of streams that are gone) that the other side may send in one second. */
  maxIdleFramesPerSecond: number
  /** Frames that we answer with while the other side takes nothing; one more is an attack. */
  maxUntakenFrames: number
  /** A session that has no stream for so long is closed by the side that accepted it. */
  unusedMs: number
  /** After a go-away: how long the connection may stay when there is no stream left. The other side may never end its half of it. */
  farewellMs: number
}

export const defaultMuxLimits: Readonly<MuxLimits> = {
  maxStreams: 256,
  maxUnsentBytes: 512 * 1024,
  flushBytes: 256 * 1024,
  pingAfterMs: 5000,
  pongWithinMs: 5000,
  maxIdleFramesPerSecond: 10_000,
  maxUntakenFrames: 16_384,
  unusedMs: 300_000,
  farewellMs: 5000,
}
