/**
 * Every limit of the HTTP/2 code beyond those of its frames, named and with its default. Nothing in this folder waits, buffers or counts
 * without one. Names that the HTTP/1.1 limits have too mean the same there.
 */
import { defaultWireLimits, type WireLimits } from './wire/limits.ts'

export interface Http2Limits extends WireLimits {
  /** Bytes of a `:path`; more is 414. */
  targetBytes: number
  /** Bytes of a method. */
  methodBytes: number
  /** Interim (1xx) responses before the final one. */
  interimResponses: number
  /** From the first moment of a connection to its preface. */
  prefaceTimeoutMs: number
  /** A connection without a stream. */
  idleTimeoutMs: number
  /** From the end of the request to the end of the response; 0 is no limit. A door may set another for one request. */
  requestTimeoutMs: number
  /** No byte of a body in either direction (Envoy's stream idle timeout). */
  bodyIdleTimeoutMs: number
  /** Streams that ended by a reset (CVE-2023-44487, CVE-2025-8671): at once, and a second after that. Then the connection ends. */
  resetBurst: number
  resetsPerSecond: number
  /** Bytes of a request that are kept until its response begins, so that a stream that was refused can be sent again. */
  replayBytes: number
  /** Times that one request is sent again. */
  maxRetries: number
  /** Times that it moves because its connection ends, which all connections to one server may do at once, or because no app was reached. */
  maxMoves: number
  /** From the notice that a connection ends to its end for new streams: the time in which the client hears of it. */
  goawayGraceMs: number
}

export const defaultHttp2Limits: Readonly<Http2Limits> = {
  ...defaultWireLimits,
  targetBytes: 16 * 1024,
  methodBytes: 32,
  interimResponses: 16,
  prefaceTimeoutMs: 10_000,
  idleTimeoutMs: 300_000,
  requestTimeoutMs: 15_000,
  bodyIdleTimeoutMs: 300_000,
  resetBurst: 400,
  resetsPerSecond: 30,
  replayBytes: 64 * 1024,
  maxRetries: 2,
  maxMoves: 8,
  goawayGraceMs: 1000,
}

/** What a side of ours opens towards one endpoint. */
export interface ChannelLimits {
  /** Streams on one connection, where the server allows as many. */
  maxStreams: number
  /** Connections to one endpoint, those that are being opened included. */
  maxConnections: number
  /** Requests that wait for a stream; one more is answered 503. */
  maxWaiting: number
  /** How long each waits. */
  waitMs: number
  /** A connection without a stream. */
  idleMs: number
  /** Age at which a connection takes no more streams; each one's own is up to 20 % less, so that they do not all go at once. */
  maxAgeMs: number
  /** How often connections are looked at. */
  sweepMs: number
  /** One behind which no app could be reached: how long others are taken first, because they may lead elsewhere. */
  shunMs: number
  /** One that carries streams and was quiet since the last look gets a PING, and ends when it says nothing until the next look. */
  probe: boolean
}

export const upstreamChannelLimits: Readonly<ChannelLimits> = {
  maxStreams: 128,
  maxConnections: 32,
  maxWaiting: 1024,
  waitMs: 15_000,
  idleMs: 60_000,
  maxAgeMs: 300_000,
  sweepMs: 5000,
  shunMs: 5000,
  probe: true,
}

/** The app is on this machine: it does not vanish silently, and a gRPC server may take offence at pings (`too_many_pings`). */
export const appChannelLimits: Readonly<ChannelLimits> = { ...upstreamChannelLimits, probe: false }
