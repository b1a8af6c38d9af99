/**
 * What equal requests share, as one number (Consul's LoadBalancer.HashPolicies, combined as Envoy does): policies are gone through in their
 * order, each that finds something is mixed in, and a terminal one that found something ends it. Made with the plan; nothing is built for
 * a request but the text that is hashed.
 */
import type { HashPolicy } from './config.ts'
import { combine, hashText } from './hash.ts'
import { realSources, type Sources } from './picker.ts'

/** What a request shows of itself; a RequestHead does. */
export interface Hashable {
  /** With its query. */
  readonly target: string
  get(name: string): string | undefined
}

/** An affinity that was made up for a caller who brought none. */
export interface Affinity {
  hash: number | undefined
  /** The value of a Set-Cookie field to send with the answer; '' is none. */
  setCookie: string
}

const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const cookiePath = /^[\x20-\x3A\x3C-\x7E]*$/

interface Rule extends HashPolicy {
  seed: number
}

export class RequestHash {
  readonly #rules: readonly Rule[]
  readonly #random: () => number

  constructor(policies: readonly HashPolicy[], { random }: Sources = realSources) {
    this.#random = random
    this.#rules = policies.map(policy => {
      const name = policy.field === 'header' ? policy.name.toLowerCase() : policy.name
      // A name or path that would break the Set-Cookie line makes no cookie.
      const generates = policy.field === 'cookie' && policy.generate && token.test(name) && cookiePath.test(policy.generate.path)
      return { ...policy, name, generate: generates ? policy.generate : undefined, seed: hashText(policy.field) }
    })
  }

  /** Fills `into`, which belongs to the caller and is used again. `source` is the address that the request came from. */
  of(request: Hashable, source: string, into: Affinity): void {
    let hash: number | undefined
    into.setCookie = ''
    for (const rule of this.#rules) {
      const text = textOf(rule, request, source) ?? this.#made(rule, into)
      if (text === undefined) continue
      const one = hashText(text, rule.seed)
      hash = hash === undefined ? one : combine(hash, one)
      if (rule.terminal) break
    }
    into.hash = hash
  }

  /** The cookie that the caller gets, where the policy wants one; the request goes where the next one with it will. */
  #made({ generate, name }: Rule, into: Affinity): string | undefined {
    if (generate === undefined || into.setCookie !== '') return undefined
    const half = () => ((this.#random() * 4_294_967_296) >>> 0).toString(16).padStart(8, '0')
    const value = half() + half()
    const age = generate.ttlMs > 0 ? `; Max-Age=${Math.ceil(generate.ttlMs / 1000)}` : ''
    const path = generate.path === '' ? '' : `; Path=${generate.path}`
    into.setCookie = `${name}=${value}${age}${path}; HttpOnly`
    return value
  }
}

function textOf({ field, name }: Rule, request: Hashable, source: string): string | undefined {
  switch (field) {
    case 'header':
      return request.get(name)
    case 'cookie': {
      const cookies = request.get('cookie')
      return cookies === undefined ? undefined : cookieOf(cookies, name)
    }
    case 'query_parameter':
      return parameterOf(request.target, name)
    case 'source_ip':
      return source === '' ? undefined : source
  }
}

/** The value of the first cookie of that name; quotes around it are not part of it. */
function cookieOf(cookies: string, name: string): string | undefined {
  for (let at = 0; at < cookies.length;) {
    while (cookies.charCodeAt(at) === 32 || cookies.charCodeAt(at) === 9) at++
    const semicolon = cookies.indexOf(';', at)
    const end = semicolon < 0 ? cookies.length : semicolon
    if (cookies.startsWith(name, at) && cookies.charCodeAt(at + name.length) === 61) {
      const value = cookies.slice(at + name.length + 1, end).trim()
      const quoted = value.length > 1 && value.startsWith('"') && value.endsWith('"')
      const bare = quoted ? value.slice(1, -1) : value
      return bare === '' ? undefined : bare
    }
    at = end + 1
  }
  return undefined
}

/** The value of the first parameter of that name, as it stands in the query. */
function parameterOf(target: string, name: string): string | undefined {
  const query = target.indexOf('?')
  if (query < 0) return undefined
  for (let at = query + 1; at <= target.length;) {
    const ampersand = target.indexOf('&', at)
    const end = ampersand < 0 ? target.length : ampersand
    if (target.startsWith(name, at) && at + name.length < end && target.charCodeAt(at + name.length) === 61) {
      return target.slice(at + name.length + 1, end)
    }
    at = end + 1
  }
  return undefined
}
