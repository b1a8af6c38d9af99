/** Every limit of a session, named and with its default. */
import type { GatherLimits } from '../../../lib/gathered-writer.ts'

export interface WireLimits extends GatherLimits {
  /** Bytes of one header list as RFC 9113 6.5.2 counts them (32 more for each field); a request with more is a 431, else its stream is reset. XFCC alone is about 5 KiB. */
  headerListBytes: number
  /** Fields of one header list, pseudo-header fields included; likewise. */
  headerCount: number
  /** Streams that a client may have open on one connection; one more is refused. */
  maxConcurrentStreams: number
  /** What a sender may have under way on one stream before it was read, and on a whole connection: more than 65,535, with which both start. */
  streamWindowBytes: number
  connectionWindowBytes: number
  /**
   * Bytes of bodies that one connection makes us hold; above that its window stays shut, which stops all of its streams. Where so many wait to
   * be sent, it gets no new ones. As much as the streams of one connection of ours can have (maxStreams of ../limits.ts): others share it, and
   * must not stand still because of those who read slowly.
   */
  heldBytes: number
  /** Bytes of one header block as it is sent, and CONTINUATION frames of it; more ends the connection. */
  headerBlockBytes: number
  continuations: number
  /** Parameters of one SETTINGS frame. */
  settingsParameters: number
  /** Bytes that wait to be sent, without bodies, which wait for their turn elsewhere; who takes nothing and asks for more is an attacker. */
  untakenBytes: number
  /**
   * Frames that do nothing for a request (PING, SETTINGS, PRIORITY, empty DATA, unknown ones, late ones for streams that are gone): at once, and
   * a second after that; then the connection ends. Each frame of a request or of a body earns one more, because clients measure with pings.
   */
  idleFrameBurst: number
  idleFramesPerSecond: number
  /** For the end of the other side, on a connection that has ended here. */
  lingerMs: number
}

export const defaultWireLimits: Readonly<WireLimits> = {
  headerListBytes: 64 * 1024,
  headerCount: 128,
  maxConcurrentStreams: 256,
  streamWindowBytes: 256 * 1024,
  connectionWindowBytes: 1024 * 1024,
  heldBytes: 32 * 1024 * 1024,
  headerBlockBytes: 256 * 1024,
  continuations: 32,
  settingsParameters: 32,
  untakenBytes: 4 * 1024 * 1024,
  maxUnsentBytes: 512 * 1024,
  flushBytes: 256 * 1024,
  idleFrameBurst: 1000,
  idleFramesPerSecond: 100,
  lingerMs: 2000,
}
