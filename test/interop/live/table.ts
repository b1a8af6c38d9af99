/** The table that the suite prints: a row for each thing seen, and for each direction what was seen, or why not. */
import type { Stretch } from '../../support/paced-traffic.ts'

export interface Row {
  what: string
  /** By direction, in the order of the head. */
  seen: string[]
  failed: boolean
}

export function textOf(head: string[], rows: readonly Row[]): string {
  const lines = [['', ...head], ...rows.map(({ what, seen, failed }) => [`${failed ? 'FAILED ' : ''}${what}`, ...seen])]
  const widths = lines.reduce<number[]>((all, line) => line.map((text, i) => Math.max(all[i] ?? 0, text.length)), [])
  return lines
    .map(line =>
      line
        .map((text, i) => text.padEnd(widths[i]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

export const isLate = (problem: string) => problem.includes(': late, ')

/** Failed requests and lost exchanges of a stretch of traffic. Late ones are failed, too; apart, because a busy machine is late by itself. */
export function lossesOf({ sent, failed, slowestMs, exchanges, broken, ended }: Stretch): string {
  const late = failed.filter(isLate).length
  const requests = `${failed.length} of ${sent} failed${late > 0 ? ` (${late} late)` : ''}, slowest ${slowestMs} ms`
  return `${requests}; ${broken.length} of ${exchanges} exchanges lost${ended > 0 ? `, ${ended} tunnels ended` : ''}`
}

/** What went wrong, the worst first. */
export function problemsOf({ failed, broken }: Stretch): string[] {
  return [...broken, ...failed].sort((a, b) => Number(isLate(a)) - Number(isLate(b)))
}
