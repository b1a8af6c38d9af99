/** What a change of config entries would change: the boundary cases of the rules before and after it whose outcome is another. */
import { boundaryCases, type BoundaryCase } from './boundary-cases.ts'
import type { EntrySet } from './entry-set.ts'
import { requestFacts } from './forwarded.ts'
import type { Claims, TokenReader } from './jwt.ts'
import { Outcomes, type Outcome, type OutcomeContext } from './outcome.ts'
import { byteString } from './path.ts'

export interface Changed {
  call: BoundaryCase
  before: Outcome
  after: Outcome
}

export interface WhatIf {
  changed: Changed[]
  /** Cases that were tried. */
  tried: number
  unsampled: string[]
  cut: boolean
}

export function whatIf(before: EntrySet, after: EntrySet, services: readonly string[], context: OutcomeContext): WhatIf {
  const { cases, unsampled, cut } = boundaryCases([before, after], services)
  const [then, now] = [new Outcomes(before, context), new Outcomes(after, context)]
  const changed: Changed[] = []
  for (const call of cases) {
    const { source, destination, method, target, headers, claims } = call
    const request = requestFacts(method, byteString(target), headers)
    const asked = { source, destination, request, tokens: proving(claims) }
    const [was, is] = [then.of(asked), now.of(asked)]
    if (signOf(was) !== signOf(is)) changed.push({ call, before: was, after: is })
  }
  return { changed, tried: cases.length, unsampled, cut }
}

function proving(claims: Record<string, Claims>): TokenReader {
  return { claims: provider => (Object.hasOwn(claims, provider) ? claims[provider] : undefined) }
}

/** What a caller notices: the verdict, and where the call ends. By which rule is not his concern. */
function signOf({ verdict, targets }: Outcome): string {
  return `${verdict} ${targets.map(each => `${each.target}=${each.verdict}`).join()}`
}
