/**
 * Which route of a router a request takes: the first, in their order, that it matches (spec/data-plane.md 9.4). Exact paths are found by a
 * map and prefixes by a tree over their characters, so that routes whose path does not match cost nothing, however many there are;
 * only regexes and routes without a path are gone through one by one.
 */
import { compileHeader, compileRegex, never, type HeadersMatch } from './header-match.ts'
import { byteString } from './path.ts'
import type { HttpFacts } from './permission.ts'
import { compileQuery, type TargetMatch } from './query-match.ts'
import type { RouteMatch } from './routing-entry.ts'

/** What a route may look at. */
export interface RouteFacts extends HttpFacts {
  /** With its query. */
  readonly target: string
}

/** No route matched. */
export const noRoute = -1

type Test = (facts: RouteFacts) => boolean

interface PrefixNode {
  /** The characters that lead here from the node before. */
  label: string
  /** Routes whose prefix ends here, in their order. */
  routes: number[]
  children: Map<number, PrefixNode>
}

export class RouteTable {
  readonly #exact = new Map<string, number[]>()
  readonly #prefixes: PrefixNode = { label: '', routes: [], children: new Map() }
  readonly #others: number[] = []
  /** Of each route: what is tested besides an indexed path; undefined where that is all. */
  readonly #tests: (Test | undefined)[] = []

  /** `problems` gets what cannot be compiled: such a route matches nothing. */
  constructor(matches: readonly (RouteMatch | undefined)[], problems: string[]) {
    for (const [i, match] of matches.entries()) {
      const test = compileTest(match ?? {})
      if (test === never) {
        problems.push(`route ${i} cannot be compiled and matches nothing`)
        this.#tests.push(undefined)
        continue
      }
      this.#tests.push(test)
      this.#index(match ?? {}, i)
    }
  }

  /** The index of the first route that matches, or `noRoute`. */
  match(facts: RouteFacts): number {
    const { path } = facts
    const exact = this.#exact.get(path)
    let best = exact === undefined ? Infinity : this.#first(exact, Infinity, facts)
    let at = 0
    for (let node: PrefixNode | undefined = this.#prefixes; node !== undefined && path.startsWith(node.label, at);) {
      at += node.label.length
      if (node.routes.length > 0) best = this.#first(node.routes, best, facts)
      node = node.children.get(path.charCodeAt(at))
    }
    if (this.#others.length > 0) best = this.#first(this.#others, best, facts)
    return best === Infinity ? noRoute : best
  }

  /** The first of a list that matches and comes before `best`; else `best`. */
  #first(list: readonly number[], best: number, facts: RouteFacts): number {
    for (let i = 0; i < list.length; i++) {
      const route = list[i]!
      if (route >= best) break
      const test = this.#tests[route]
      if (test === undefined || test(facts)) return route
    }
    return best
  }

  #index({ pathExact, pathPrefix }: RouteMatch, route: number): void {
    if (pathExact) {
      const path = byteString(pathExact)
      const known = this.#exact.get(path)
      if (known) known.push(route)
      else this.#exact.set(path, [route])
    } else if (pathPrefix) nodeOf(this.#prefixes, byteString(pathPrefix)).routes.push(route)
    else this.#others.push(route)
  }
}

/** The node at the end of `prefix`, made where it is not there. */
function nodeOf(root: PrefixNode, prefix: string): PrefixNode {
  let node = root
  for (let at = 0; at < prefix.length;) {
    const child = node.children.get(prefix.charCodeAt(at))
    if (child === undefined) {
      const made: PrefixNode = { label: prefix.slice(at), routes: [], children: new Map() }
      node.children.set(prefix.charCodeAt(at), made)
      return made
    }
    let shared = 1
    while (shared < child.label.length && child.label[shared] === prefix[at + shared]) shared += 1
    if (shared < child.label.length) {
      const upper: PrefixNode = {
        label: child.label.slice(0, shared),
        routes: [],
        children: new Map([[child.label.charCodeAt(shared), child]]),
      }
      child.label = child.label.slice(shared)
      node.children.set(upper.label.charCodeAt(0), upper)
      node = upper
    } else node = child
    at += shared
  }
  return node
}

function compileTest(match: RouteMatch): Test | undefined | typeof never {
  const methods = match.methods?.length ? new Set(match.methods.map(method => method.toUpperCase())) : undefined
  const headers = (match.header ?? []).map(compileHeader)
  const queries = (match.queryParam ?? []).map(compileQuery)
  const regex = match.pathRegex ? compileRegex(match.pathRegex) : undefined
  if (headers.includes(never) || queries.includes(never) || (match.pathRegex && regex === undefined)) return never
  if (methods === undefined && headers.length === 0 && queries.length === 0 && regex === undefined) return undefined
  return facts => {
    if (methods !== undefined && !methods.has(facts.method)) return false
    if (regex !== undefined && !regex.testExact(facts.path)) return false
    for (const header of headers as HeadersMatch[]) if (!header(facts.headers)) return false
    for (const query of queries as TargetMatch[]) if (!query(facts.target)) return false
    return true
  }
}
