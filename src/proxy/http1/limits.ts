/**
 * Every limit of the HTTP/1.1 code, named and with its default. Nothing in this folder waits, buffers or counts without one.
 */

export interface Http1Limits {
  /** Bytes of one head, request or status line included; more is 431 (a response: 502). XFCC alone is about 5 KiB. */
  headBytes: number
  /** Field lines of one head. */
  headerCount: number
  /** Bytes of a request target; more is 414. */
  targetBytes: number
  /** Bytes of a method token. */
  methodBytes: number
  /** Bytes of the trailer section of one chunked body. */
  trailerBytes: number
  /** Bytes of chunk extensions in one whole body; they are dropped. */
  chunkExtensionBytes: number
  /** Interim (1xx) responses before the final one. */
  interimResponses: number
  /** From the first byte of a request head to its last. */
  headTimeoutMs: number
  /** A connection without a request. */
  idleTimeoutMs: number
  /** From the last byte of the request to the last byte of the response; 0 is no limit. A door may set another for one request. */
  requestTimeoutMs: number
  /** No byte of a body in either direction while one is under way (Envoy's stream idle timeout). */
  bodyIdleTimeoutMs: number
  /** A tunnel (upgrade) without a byte in either direction; 0 is no limit. */
  tunnelIdleTimeoutMs: number
  /** After a last response: how long, and how many bytes, what the client still sends is read and dropped so that it sees the response. */
  lingerMs: number
  lingerBytes: number
  /** Bytes of a body that are kept until the answer begins, where it may have to be sent elsewhere because no app was reached. */
  replayBytes: number
  /** Times that one request goes elsewhere for that. */
  maxMoves: number
  /** Head and body leave as one copied write when the body bytes at hand are no more than this; above it nothing is copied. */
  coalesceBytes: number
}

export const defaultHttp1Limits: Readonly<Http1Limits> = {
  headBytes: 64 * 1024,
  headerCount: 128,
  targetBytes: 16 * 1024,
  methodBytes: 32,
  trailerBytes: 8 * 1024,
  chunkExtensionBytes: 4 * 1024,
  interimResponses: 16,
  headTimeoutMs: 30_000,
  idleTimeoutMs: 300_000,
  requestTimeoutMs: 15_000,
  bodyIdleTimeoutMs: 300_000,
  tunnelIdleTimeoutMs: 3_600_000,
  lingerMs: 2_000,
  lingerBytes: 256 * 1024,
  replayBytes: 64 * 1024,
  maxMoves: 8,
  coalesceBytes: 4 * 1024,
}
