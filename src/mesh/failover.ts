/**
 * Which target of a resolver requests go to (spec/data-plane.md 9.3): the first in its order that can be used. To leave one takes no time;
 * to come back to one takes it to have been usable for a while without a break, so that requests do not swing with a target that comes and
 * goes. What is under way when the choice changes stays where it is and ends there.
 */

export const failoverLimits = { failBackMs: 10_000 } as const

export interface FailoverState {
  /** Index of the target in use. */
  readonly current: number
  /** Of each target before `current`: since when it has been usable; undefined while it is not. */
  readonly usableSinceMs: readonly (number | undefined)[]
}

export const firstTarget: FailoverState = { current: 0, usableSinceMs: [] }

/**
 * The state that follows from what is usable now; the same object where nothing changes. Where nothing is usable the choice stays: what
 * is tried there says why it does not work.
 */
export function followHealth(
  state: FailoverState,
  usable: readonly boolean[],
  nowMs: number,
  failBackMs: number = failoverLimits.failBackMs,
): FailoverState {
  const { current } = state
  if (current === 0 && usable[0] === true) return state
  const usableSinceMs: (number | undefined)[] = []
  for (let i = 0; i < current; i++) usableSinceMs.push(usable[i] === true ? (state.usableSinceMs[i] ?? nowMs) : undefined)
  const back = usableSinceMs.findIndex(since => since !== undefined && nowMs - since >= failBackMs)
  if (back >= 0) return moved(back, usableSinceMs)
  if (current < usable.length && usable[current] === true)
    return isSame(usableSinceMs, state.usableSinceMs) ? state : { current, usableSinceMs }
  // The one in use cannot be used: any other is better, and there is nothing to wait for.
  const next = usable.indexOf(true)
  if (next < 0) return current < usable.length ? state : firstTarget
  return moved(next, usableSinceMs)
}

function moved(to: number, usableSinceMs: readonly (number | undefined)[]): FailoverState {
  return { current: to, usableSinceMs: Array.from({ length: to }, (_, i) => usableSinceMs[i]) }
}

function isSame(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((each, i) => each === b[i])
}
