/**
 * The seam between the HTTP/1.1 code and whoever judges and routes requests (inbound, outbound). A door belongs to one downstream
 * connection; requests of a connection are answered one after another, so `open` and `finished` strictly alternate and a door
 * may keep the current request in fields and return the same object each time.
 */
import type { ByteStream } from '../../lib/byte-stream.ts'
import type { RequestHead, ResponseHead } from './head.ts'

export interface HttpDoor {
  /**
   * Judges one request against the plan of this moment; synchronous. `head` shows exactly what will be forwarded: hop-by-hop
   * fields are gone. Edit it in place (`remove`, `append`, `set`); it is valid until `finished`.
   */
  open(head: RequestHead): Opened | Refused
  /** The final response head before it is forwarded; may be edited in place. */
  responding?(head: ResponseHead): void
  /** True while the tunnel that the current request opened (upgrade) is still allowed; asked by `reauthorize()`. */
  stillAllowed?(): boolean
  /** When that is to be asked again, because something that it was allowed by ends (wall clock). */
  allowedUntilMs?(): number
  /** Once for every `open`, refused ones included. `outcome` is reused: read it, do not keep it. */
  finished(outcome: Outcome): void
  /** A message that was refused before there was a request to judge. */
  malformed?(status: number, reason: string): void
  /** `open`, `connect` or `stillAllowed` threw: a mistake of ours. The request was answered 500, or the tunnel closed. */
  threw?(error: unknown): void
}

export interface Opened {
  ok: true
  /**
   * A stream for this request. Synchronous when one is at hand (the fast path). Called again with `fresh` true when a pooled stream turned
   * out to be dead: then a stream on which nothing was sent yet must be made. Throwing, or a rejected promise, is a 500.
   */
  connect(fresh: boolean): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure>
  /** Instead of `limits.requestTimeoutMs`, for this request; 0 is no limit. */
  timeoutMs?: number | undefined
  /** How it may be tried again; without, once. */
  retry?: Retry | undefined
  /** Whoever asks is one of us: where no app was reached, that is said with the answer (unreached.ts). */
  tellUnreached?: boolean | undefined
}

/** A request is tried again only where that can do nothing twice: nothing was sent yet, or it is idempotent and has no body. */
export interface Retry {
  /** Tries after the first. */
  readonly retries: number
  /** A try without an answer is given up after this; 0 is never. */
  readonly perTryMs: number
  /** Answers (4xx, 5xx) that are not wanted while there is a try left. */
  readonly statuses: readonly number[]
  /** Asked before each of them. A yes begins one. */
  allow(cause: RetryCause): boolean
  /**
   * One of us says that it could not reach the app. Nothing was done, so that going elsewhere is no try in the sense of the above: it has a
   * limit of its own. `again` says whether this one does; `connect` then answers with a place where the app may be reached, or how it fails.
   * `news`: the way that it went had not said so lately, or there was none that had not.
   */
  unreached?(again: boolean, news: boolean): void
}

/** The stream broke before its answer; a try took too long; the answer had an unwanted status. */
export type RetryCause = 'broken' | 'timeout' | 'status'

export interface Refused {
  ok: false
  status: number
  /** Sent as text/plain. */
  body: string
  /** For the outcome; a constant. */
  reason: string
  /** More response fields, flat: name, value, … */
  headers?: string[]
}

/** A connect that failed as expected. Without `status` and `body` the client gets Envoy's 503 with `reset` as its reason. */
export interface ConnectFailure {
  /** Envoy's words: `remote connection failure`, `connection timeout`, `overflow`, … */
  reset: string
  status?: number
  body?: string
}

/**
 * One upstream byte stream. Exactly one of `release` and `destroy` is called, once, per `connect`. The HTTP code reads it in flowing mode and
 * leaves its own listeners on it after a release, so a pool must not read from it; listening to `close` is enough to know
 * that an idle stream is gone (bytes that arrive on an idle stream destroy it).
 */
export interface UpstreamStream {
  stream: ByteStream
  /** It came from the pool: it has carried a request before, so it may have died in the meantime. */
  reusable: boolean
  /** Only where the server is one of us, whose word counts: it could not reach the app. True when that is news (Retry). */
  appUnreached?(): boolean
  /** Both messages ended cleanly and the upstream keeps the connection: it may carry another request. `keptSeconds`: how long, if that is said. */
  release(keptSeconds?: number): void
  /** Anything else. Must destroy `stream`. */
  destroy(): void
}

/**
 * How a request ended. `source` is who made the response or the failure: `app` the upstream answered, `upstream` it could not be
 * reached or broke off, `internal` we refused, `downstream` the client broke off or broke the protocol.
 */
export interface Outcome {
  /** The status that was sent; 0 when none was. */
  status: number
  source: 'downstream' | 'upstream' | 'internal' | 'app'
  /** A constant: 'ok', 'timeout', 'client-abort', 'upstream-reset', the reason of a refusal, … */
  reason: string
  durationMs: number
  /** Body bytes as on the wire. */
  requestBytes: number
  responseBytes: number
  /** It was tried more than once. */
  retried: boolean
}
