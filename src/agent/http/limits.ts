/** Every limit of the HTTP door, by name. Consul has no general body limit; a door that is open to a laptop's web pages needs one. */
export const httpLimits = {
  /** One value of the key-value store (`limits.kv_max_value_size`). */
  kvValueBytes: 512 * 1024,
  /** One transaction (`limits.txn_max_req_len`), and its operations. */
  txnBytes: 512 * 1024,
  txnOps: 128,
  /** Any other request body. */
  bodyBytes: 1024 * 1024,
  /** Request line and headers together. */
  headerBytes: 64 * 1024,
  headerCount: 200,
  pathBytes: 8 * 1024,
  queryParams: 256,
  /** Nesting of a JSON body. */
  jsonDepth: 64,
  /** A client that has not finished its headers, or its whole request, is cut off. */
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  keepAliveTimeoutMs: 65_000,
  /** A client that does not read its answer is cut off. Streams have their own limit. */
  answerTimeoutMs: 30_000,
  /** Open connections of one client address (`limits.http_max_conns_per_client`); unix sockets are not counted. */
  connectionsPerClient: 200,
  /** A snapshot stream whose reader lags this much is closed; the proxy reconnects and is told everything anew. */
  streamBufferBytes: 16 * 1024 * 1024,
  /** Answers of at least this size are compressed for clients that take gzip. */
  gzipBytes: 1400,
  /** Blocking queries (spec/http-api.md 1.8). */
  defaultWaitMs: 5 * 60_000,
  maxWaitMs: 10 * 60_000,
} as const

/** The limits that a door may be given others of: by its configuration, or by tests, which need small ones. */
export type DoorLimits = {
  [K in 'kvValueBytes' | 'txnBytes' | 'connectionsPerClient' | 'headersTimeoutMs' | 'requestTimeoutMs' | 'answerTimeoutMs']: number
}
