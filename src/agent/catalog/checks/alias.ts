/** An alias check: as healthy as the checks of another service of some node, those of that node itself included. */
import type { CheckStatus, HealthCheck } from '../../../mesh/check.ts'
import type { CheckRunner, Outcome, Report } from './poll.ts'

/** What an alias looks at: the checks of its target, and whether that exists at all; and the news about them. */
export interface AliasTarget {
  checks(): Iterable<HealthCheck>
  exists(): boolean
  subscribe(onChange: () => void): { close(): void }
  /** For the text about one that is not there. */
  name: string
}

export class Alias implements CheckRunner {
  readonly #target: AliasTarget
  readonly #report: Report
  #subscription: { close(): void } | undefined

  constructor(target: AliasTarget, report: Report) {
    this.#target = target
    this.#report = report
  }

  start(): void {
    this.#subscription = this.#target.subscribe(() => this.#evaluate())
    this.#evaluate()
  }

  stop(): void {
    this.#subscription?.close()
  }

  #evaluate(): void {
    const { status, output } = aliasOutcome(this.#target)
    this.#report(status, output)
  }
}

export function aliasOutcome(target: AliasTarget): Outcome {
  let status: CheckStatus = 'passing'
  let output = 'No checks found.'
  for (const check of target.checks()) {
    if (check.status === 'passing') {
      if (status === 'passing') output = 'All checks passing.'
      continue
    }
    if (status === 'warning' && check.status === 'warning') continue
    status = check.status === 'warning' ? 'warning' : 'critical'
    // The output of another alias is left out, or two that name each other would grow for ever.
    output = `Aliased check ${JSON.stringify(check.name)} failing: ${check.type === 'alias' ? '' : check.output}`
    if (status === 'critical') return { status, output }
  }
  if (output === 'No checks found.' && !target.exists()) return { status: 'critical', output: `${target.name} could not be found` }
  return { status, output }
}
