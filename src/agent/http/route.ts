/** A row of the route table, and what its handler is given. The table is the whole API: docs and tests read it too. */
import type * as z from 'zod'
import type { ParameterName } from './parameters.ts'
import type { AgentParts } from './parts.ts'
import type { Query, ReadOptions } from './request.ts'
import type { Reply } from './reply.ts'

export type Method = 'GET' | 'PUT' | 'POST' | 'DELETE'

export interface Call {
  readonly agent: AgentParts
  readonly method: Method
  /** Percent-decoded. */
  readonly path: string
  readonly query: Query
  /** The value of a request header, by its lower-case name. */
  header(name: string): string | undefined
  /** What `*` of the path matched, percent-decoded; it may hold slashes. */
  readonly rest: string
  readonly params: Readonly<Record<string, string | undefined>>
  readonly token: string
  /** The whole request body; empty for GET. */
  readonly body: Buffer
  /** Consistency and caching as asked for. */
  readonly read: ReadOptions
  /** Aborted when the client has gone or the door closes. */
  readonly signal: AbortSignal
  readonly remote: Remote
}

export interface Remote {
  /** Empty on a unix socket. */
  address: string
  unix: boolean
  loopback: boolean
  /** The request says that a proxy handed it on. */
  forwarded: boolean
}

export interface Route {
  method: Method
  /** Literal, with `:name` for one segment and a final `*` for all the rest. */
  path: string
  /** What it does, in one line, for the docs. */
  what: string
  handler: (call: Call) => Reply | Promise<Reply>
  /** The query parameters that its handler reads, beside those of every endpoint. */
  takes?: readonly ParameterName[]
  /** What its body is; `bytes` is taken as it is. None: a body is ignored. */
  body?: z.ZodType | 'bytes'
  /** Endpoints of the agent itself do not look at ?dc= or the consistency modes. */
  agentLocal?: true
  /** How large a body may be; one of the door's own limits where it has a name, else `bodyBytes`. */
  bodyLimit?: number | 'kvValueBytes' | 'txnBytes'
  /** Who asks from elsewhere than this machine, or through a proxy, is told this before a byte of its body is read. */
  localOnly?: string
  /** It is none of the API's own: its answers say nothing of access control lists. */
  unregistered?: true
  /** The prepared-query family names no OPTIONS in the Allow of a 405, and answers OPTIONS in JSON (1.2). */
  ownOptions?: true
  /** The answer may hold secrets, or never ends: not compressed. */
  plain?: true
}
