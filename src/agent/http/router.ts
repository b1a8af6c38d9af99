/**
 * From a request target to a route, or to one of the answers that Consul gives without one (spec/http-api.md 1.2). Matching is
 * exact: case, trailing slashes and method all count; names are percent-decoded once, here.
 */
import findMyWay from 'find-my-way'
import { httpLimits } from './limits.ts'
import type { Method, Route } from './route.ts'

export type Routed =
  | { kind: 'route'; methods: ReadonlyMap<Method, Route>; allow: string; path: string; params: Record<string, string | undefined> }
  | { kind: 'answer'; status: number; headers: Record<string, string>; body: string }

/** A request target (RFC 9112 3.2) taken apart; undefined for one that is no origin-form or absolute-form. */
export interface Target {
  /** Still percent-encoded. */
  path: string
  query: string
  /** Absolute-form only: it replaces the Host header. */
  authority?: string
}

export function parseTarget(url: string): Target | undefined {
  const absolute = /^https?:\/\/([^/?#]*)(.*)$/i.exec(url)
  const rest = absolute ? absolute[2]! || '/' : url
  if (!rest.startsWith('/') || rest.includes('#')) return undefined
  const question = rest.indexOf('?')
  const target: Target = { path: question === -1 ? rest : rest.slice(0, question), query: question === -1 ? '' : rest.slice(question + 1) }
  if (absolute) target.authority = absolute[1]!
  return target
}

// As Go's unicode.IsPrint: letters, marks, numbers, punctuation, symbols and the one ASCII space.
const unprintable = /[^\p{L}\p{M}\p{N}\p{P}\p{S} ]/u

export class Router {
  readonly #paths = findMyWay({
    maxParamLength: httpLimits.pathBytes,
    caseSensitive: true,
    ignoreTrailingSlash: false,
  })

  constructor(routes: readonly Route[]) {
    const byPath = new Map<string, Map<Method, Route>>()
    for (const route of routes) {
      const methods = byPath.get(route.path) ?? new Map<Method, Route>()
      if (methods.has(route.method)) throw new Error(`two routes for ${route.method} ${route.path}`)
      byPath.set(route.path, methods.set(route.method, route))
    }
    // One entry a path, whatever the method: which methods it has decides between 405, OPTIONS and the handler.
    for (const [path, methods] of byPath) this.#paths.on('GET', path, () => undefined, methods)
  }

  route(method: string, target: Target): Routed {
    const path = decoded(target.path)
    if (path === undefined || unprintable.test(path)) return answer(400, '')
    const clean = cleaned(target.path)
    if (clean !== target.path) return redirect(method, clean + (target.query === '' ? '' : `?${target.query}`))
    const found = this.#paths.find('GET', target.path)
    if (!found) return answer(404, unknownPath(path), { 'Content-Type': 'text/plain; charset=utf-8' })
    const methods = found.store as ReadonlyMap<Method, Route>
    return { kind: 'route', methods, allow: ['OPTIONS', ...methods.keys()].join(','), path, params: found.params }
  }
}

function decoded(path: string): string | undefined {
  try {
    return decodeURIComponent(path)
  } catch {
    return undefined
  }
}

/** Go's path.Clean for a rooted path, keeping a trailing slash; still percent-encoded. */
function cleaned(path: string): string {
  if (!/\/\.{0,2}(?:\/|$)/.test(path)) return path
  const parts: string[] = []
  for (const part of path.split('/')) {
    if (part === '..') parts.pop()
    else if (part !== '' && part !== '.') parts.push(part)
  }
  const slash = parts.length > 0 && /\/\.{0,2}$/.test(path) ? '/' : ''
  return `/${parts.join('/')}${slash}`
}

/** 307 keeps the body of a PUT. As Go does, only a GET is told so in HTML; what it links to is escaped, so it cannot leave its attribute. */
function redirect(method: string, location: string): Routed {
  if (method !== 'GET' && method !== 'HEAD') return answer(307, '', { Location: location })
  const link = location.replaceAll('&', '&amp;').replaceAll('"', '&#34;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
  return answer(307, `<a href="${link}">Temporary Redirect</a>.\n\n`, { 'Content-Type': 'text/html; charset=utf-8', Location: location })
}

function unknownPath(path: string): string {
  return path.includes('/v1/')
    ? 'Invalid URL path: not a recognized HTTP API endpoint\n'
    : `Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n`
}

function answer(status: number, body: string, headers: Record<string, string> = {}): Routed {
  return { kind: 'answer', status, headers, body }
}
