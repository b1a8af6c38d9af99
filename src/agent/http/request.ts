/**
 * What every endpoint reads from a request in the same way (spec/http-api.md 1.4 to 1.6, 1.10): the query, datacenter, namespace,
 * consistency, token and JSON body. Everything here is judged before a handler runs, and a refusal names the parameter.
 */
import type { IncomingMessage } from 'node:http'
import * as z from 'zod'
import { parseDuration } from '../../lib/duration.ts'
import { MeshError } from '../../lib/errors.ts'
import { decode, type DecodeIssue } from '../../lib/shape.ts'
import type { Tables } from '../catalog/tables.ts'
import { badRequest } from './errors.ts'
import { parseJson } from './json.ts'
import { httpLimits } from './limits.ts'
import type { Call } from './route.ts'

/** The query string. Presence counts for flags: the Go client sends `stale=` with an empty value. */
export class Query {
  readonly #values = new Map<string, string[]>()

  add(name: string, value: string): void {
    const values = this.#values.get(name)
    if (values) values.push(value)
    else this.#values.set(name, [value])
  }

  has(name: string): boolean {
    return this.#values.has(name)
  }

  /** The first value; empty when there is none, as Go's Values.Get. */
  get(name: string): string {
    return this.#values.get(name)?.[0] ?? ''
  }

  all(name: string): string[] {
    return this.#values.get(name) ?? []
  }
}

/** Undefined for a query that Go's url.ParseQuery would refuse: a bad escape, or a semicolon. */
export function parseQuery(text: string): Query | undefined {
  const query = new Query()
  if (text === '') return query
  const pairs = text.split('&')
  if (pairs.length > httpLimits.queryParams || text.includes(';')) return undefined
  for (const pair of pairs) {
    if (pair === '') continue
    const equals = pair.indexOf('=')
    const name = unescape(equals === -1 ? pair : pair.slice(0, equals))
    const value = equals === -1 ? '' : unescape(pair.slice(equals + 1))
    if (name === undefined || value === undefined) return undefined
    query.add(name, value)
  }
  return query
}

function unescape(text: string): string | undefined {
  if (!text.includes('%') && !text.includes('+')) return text
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return undefined
  }
}

/** 1.10: the deprecated parameter, then Consul's header, then a bearer token. */
export function tokenOf(query: Query, headers: IncomingMessage['headers']): string {
  const header = headers['x-consul-token']
  const bearer = /^bearer +(.+)$/i.exec(headers.authorization ?? '')
  return query.get('token') || (typeof header === 'string' ? header : '') || (bearer?.[1] ?? '')
}

/** 1.5: namespaces and partitions are not in the community edition, not even their default. */
export function refuseEnterprise(query: Query, headers: IncomingMessage['headers']): void {
  for (const [param, header, what] of [
    ['ns', 'X-Consul-Namespace', 'Namespaces are'],
    ['partition', 'X-Consul-Partition', 'Partitions are'],
  ] as const) {
    if (query.get(param) !== '') throw badRequest(`Invalid query parameter: "${param}" - ${what} a Consul Enterprise feature`)
    if (headers[header.toLowerCase()]) throw badRequest(`Invalid header: "${header}" - ${what} a Consul Enterprise feature`)
  }
}

/** 1.5: only the own datacenter. Consul's text comes first; a peer's datacenter gets the way to the peer. */
export function checkDatacenter(asked: string, own: string, tables: Tables): void {
  if (asked === '' || asked.toLowerCase() === own) return
  const peer = tables.peerings().value.find(each => each.remote.datacenter === asked || each.name === asked)
  const hint = peer ? `: services of peer "${peer.name}" are read with ?peer=${peer.name} on /v1/health/service and /v1/health/connect` : ''
  throw new MeshError('invalid', `No path to datacenter${hint}`)
}

/** For what has no peers: a ?peer= is refused, not ignored. `why` says what is not shared. */
export function refusePeer(call: Call, why: string): void {
  const peer = call.query.get('peer')
  if (peer !== '') throw badRequest(`${why}; ask the cluster of peer ${JSON.stringify(peer)} itself, or leave ?peer= out`)
}

/** `datacenter` wins over `dc`. */
export function askedDatacenter(query: Query): string {
  return query.get('datacenter') || query.get('dc')
}

export interface ReadOptions {
  consistency: 'leader' | 'stale' | 'consistent'
  cached: boolean
}

/** What the agent's configuration says of reads. */
export interface ReadDefaults {
  /** `discovery_max_stale`. */
  stale: boolean
  /** `http_config.use_cache`. */
  useCache: boolean
}

/** 1.6. Reads come from this process's own tables, which have every write it has answered: the modes differ in their headers only. */
export function readOptions(query: Query, headers: IncomingMessage['headers'], byDefault: Partial<ReadDefaults> = {}): ReadOptions {
  const consistent = query.has('consistent')
  const cached = query.has('cached')
  let stale = query.has('stale')
  const maxStale = query.get('max_stale')
  if (maxStale !== '') {
    if (parseDuration(maxStale) === undefined) throw badRequest(`Invalid max_stale value ${JSON.stringify(maxStale)}`)
    stale = true
  }
  if (stale && consistent) throw badRequest('Cannot specify ?stale with ?consistent, conflicting semantics.')
  if (cached && consistent) throw badRequest('Cannot specify ?cached with ?consistent, conflicting semantics.')
  checkCacheControl(headers['cache-control'] ?? '')
  if (byDefault.stale && !consistent && !query.has('leader')) stale = true
  return { consistency: consistent ? 'consistent' : stale ? 'stale' : 'leader', cached: cached && byDefault.useCache !== false }
}

function checkCacheControl(text: string): void {
  for (const directive of text.toLowerCase().split(',')) {
    const [name, value] = directive.trim().split('=', 2)
    if ((name === 'max-age' || name === 'stale-if-error') && !/^\d+$/.test(value ?? '')) throw badRequest('Invalid Cache-Control header.')
  }
}

/** An index; what is beyond any that this agent gives out is no longer exact. */
export function uintParam(query: Query, name: string): number | undefined {
  const value = uint64Param(query, name)
  return value === undefined ? undefined : Number(value)
}

/** A uint64 parameter; undefined when absent. Go's text for a bad one. */
export function uint64Param(query: Query, name: string): bigint | undefined {
  if (!query.has(name)) return undefined
  const text = query.get(name)
  if (!/^\d+$/.test(text)) throw new MeshError('invalid', `strconv.ParseUint: parsing ${JSON.stringify(text)}: invalid syntax`)
  const value = BigInt(text)
  if (value > 0xffff_ffff_ffff_ffffn) {
    throw new MeshError('invalid', `strconv.ParseUint: parsing ${JSON.stringify(text)}: value out of range`)
  }
  return value
}

/** Go's strconv.ParseBool; undefined for anything else. */
export function parseBool(text: string): boolean | undefined {
  if (['1', 't', 'T', 'true', 'TRUE', 'True'].includes(text)) return true
  if (['0', 'f', 'F', 'false', 'FALSE', 'False'].includes(text)) return false
  return undefined
}

export interface BodyTexts {
  /** What stands before the cause. */
  prefix: string
  /** Catalog endpoints say more about a `Namespace` key (1.4). */
  namespaceHint?: true
}

/** 1.4, the strict decoder: every problem of the body in one answer, in Go's words where there is one problem of a known kind. */
export function decodeBody<S extends z.ZodType>(body: Buffer, schema: S, texts: BodyTexts): z.output<S> {
  const parsed = parseJson(body)
  if (!parsed.ok) throw badRequest(`${texts.prefix}: ${parsed.error}`)
  const list = schema instanceof z.ZodArray
  if (typeof parsed.value !== 'object' || parsed.value === null || Array.isArray(parsed.value) !== list) {
    throw badRequest(`${texts.prefix}: json: cannot unmarshal ${goType(parsed.value)} into ${list ? 'a list' : 'an object'}`)
  }
  const decoded = decode(schema, parsed.value)
  if (decoded.ok) return decoded.value
  throw badRequest(`${texts.prefix}: ${decoded.issues.map(issue => issueText(issue, texts)).join('; ')}`)
}

function issueText(issue: DecodeIssue, texts: BodyTexts): string {
  if (issue.unknownKey !== undefined) {
    const hint =
      texts.namespaceHint && issue.unknownKey.toLowerCase() === 'namespace' ? ' - Namespaces are a Consul Enterprise feature' : ''
    return `json: unknown field ${JSON.stringify(issue.unknownKey)}${hint}`
  }
  if (issue.message.startsWith('time: ')) return issue.message
  return `json: cannot unmarshal ${issue.path === '' ? 'the body' : issue.path}: ${issue.message}`
}

function goType(value: unknown): string {
  return Array.isArray(value) ? 'array' : value === null ? 'null' : typeof value === 'boolean' ? 'bool' : typeof value
}
