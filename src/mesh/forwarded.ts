/** A request as the other side sees it: rewritten and with the headers changed as its route and its leg say, in the proxy's order. */
import { applyHeaderEdit, type EditableHead } from './header-edit.ts'
import { rewritten, type LegPlan, type RoutePlan } from './routing.ts'
import type { RouteFacts } from './route-table.ts'

class Head implements EditableHead {
  headers: string[]

  constructor(headers: readonly string[]) {
    this.headers = [...headers]
  }

  remove(name: string): void {
    this.headers = this.headers.filter((_, i) => this.headers[i - (i % 2)] !== name)
  }

  append(name: string, value: string): void {
    this.headers.push(name, value)
  }
}

export function forwarded(request: RouteFacts, { rewrite, requestHeaders }: RoutePlan, leg: LegPlan | undefined): RouteFacts {
  if (rewrite === undefined && requestHeaders === undefined && leg?.requestHeaders === undefined) return request
  const target = rewrite === undefined ? request.target : rewritten(rewrite, request.target, request.path)
  const head = new Head(request.headers)
  if (requestHeaders !== undefined) applyHeaderEdit(requestHeaders, head)
  if (leg?.requestHeaders !== undefined) applyHeaderEdit(leg.requestHeaders, head)
  return { method: request.method, target, path: target.split('?', 1)[0]!, headers: head.headers }
}

/** A request of a method, a path with its query and headers, each a name and a value. Of client certificates an app has nothing to say. */
export function requestFacts(method: string, target: string, headers: Iterable<readonly [string, string]>): RouteFacts {
  const lower = Array.from(headers, ([name, value]) => [name.toLowerCase(), value] as const)
  const flat = lower.filter(([name]) => name !== 'x-forwarded-client-cert').flat()
  return { method, path: target.split('?', 1)[0]!, target, headers: flat }
}
