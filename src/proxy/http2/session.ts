/**
 * `node:http2` as this folder uses it: sessions of both sides with their limits, over a socket that is already there, and what its types
 * leave out (raw header lists, codes of an end).
 */
import {
  connect,
  constants,
  performServerHandshake,
  type ClientHttp2Session,
  type ClientSessionOptions,
  type Http2Session,
  type Http2Stream,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import type { Duplex } from 'node:stream'
import type { Http2Limits } from './limits.ts'

/** The ALPN name by which two of us know each other: it is `h2`, and what one says of its app the other believes (http1/unreached.ts). */
export const ownHttp2 = 'isthmus-h2/1'

export type HeadersListener = (headers: IncomingHttpHeaders & IncomingHttpStatusHeader, flags: number, raw: readonly string[]) => void

export function serverSession(socket: Duplex, limits: Http2Limits): ServerHttp2Session {
  const { maxConcurrentStreams } = limits
  const options = { ...optionsOf(limits), settings: { ...settingsOf(limits), maxConcurrentStreams } }
  const session = performServerHandshake(socket, options)
  session.setLocalWindowSize(limits.connectionWindowBytes)
  return session
}

/** `maxStreams` is what the server is taken to allow until it says so itself. */
export function clientSession(socket: Duplex, maxStreams: number, limits: Http2Limits): ClientHttp2Session {
  const options = { ...optionsOf(limits), settings: { ...settingsOf(limits), enablePush: false } }
  // The authority stands in no request: each has its own.
  const session = connect('http://localhost', {
    ...options,
    peerMaxConcurrentStreams: maxStreams,
    createConnection: () => socket,
  } satisfies ClientSessionOptions)
  session.setLocalWindowSize(limits.connectionWindowBytes)
  return session
}

export function onStream(
  session: ServerHttp2Session,
  listener: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, flags: number, raw: readonly string[]) => void,
): void {
  session.on('stream', listener as Parameters<typeof session.on>[1])
}

/** `headers` are interim responses. */
export function onHeaders(stream: Http2Stream, event: 'headers' | 'response' | 'trailers', listener: HeadersListener): void {
  stream.on(event, listener as (...args: unknown[]) => void)
}

/**
 * Tells the client of a stream that was answered whole to send no more (RFC 9113 8.1). What it still sends until then is read to nowhere; and
 * the answer must be on its way, because a reset takes back what only waits to be sent.
 */
export function endEarly(stream: ServerHttp2Stream): void {
  stream.resume()
  setImmediate(() => stream.close(constants.NGHTTP2_NO_ERROR))
}

/** Ends a session at once, with this code. */
export function endSession(session: Http2Session, code: number): void {
  session.destroy(code as unknown as Error)
}

function optionsOf(limits: Http2Limits): object {
  return {
    maxHeaderListPairs: limits.headerCount,
    maxSendHeaderBlockLength: 2 * limits.headerListBytes,
    maxSessionInvalidFrames: limits.invalidFrames,
    maxSessionMemory: limits.sessionMemoryMb,
    maxSessionRejectedStreams: limits.rejectedStreams,
    maxSettings: limits.settingsParameters,
  }
}

function settingsOf(limits: Http2Limits): { initialWindowSize: number; maxHeaderListSize: number } {
  return { initialWindowSize: limits.streamWindowBytes, maxHeaderListSize: limits.headerListBytes }
}
