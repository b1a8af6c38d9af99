/** The table that the suite prints: a row for each thing seen, and for each direction what was seen, or why not. */
import type { Stretch } from '../../support/paced-traffic.ts'

export interface Row {
  what: string
  /** By direction, in the order of the head. */
  seen: string[]
  failed: boolean
}

export function say(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** Without these there would be nothing to look at. */
const needed = new Set(['a token from Consul', 'exports arrive', 'intentions are written'])

/** `wanted` are parts of names of rows, for a run of a minute or two: only those are looked at, and what they need. */
export class Table {
  readonly #wanted: string[]
  readonly #rows: Row[] = []

  constructor(wanted: string[]) {
    this.#wanted = wanted
  }

  get failed(): number {
    return this.#rows.filter(each => each.failed).length
  }

  get seen(): number {
    return this.#rows.length - this.failed
  }

  isWanted(what: string): boolean {
    return this.#wanted.length === 0 || needed.has(what) || this.#wanted.some(each => what.includes(each))
  }

  /** Says it at once, too. */
  add(row: Row): void {
    this.#rows.push(row)
    say(`${row.failed ? 'FAILED' : 'ok'}  ${row.what}: ${row.seen.join(' | ')}`)
  }

  text(head: string[]): string {
    const lines = [['', ...head], ...this.#rows.map(({ what, seen, failed }) => [`${failed ? 'FAILED ' : ''}${what}`, ...seen])]
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
}

const isLate = (problem: string) => problem.includes(': late, ')

/**
 * Answered by Consul's Envoy itself, for want of a cluster: a Consul that starts again now and then takes the clusters of the exported
 * services from its own gateway for a second or two (the gateway counts `cluster_removed` and `no_cluster`). Nothing that calls it can help that.
 */
export const isConsuls = (problem: string) => problem.endsWith(': 503  (envoy server)')

/** Failed requests and lost exchanges of a stretch of traffic, late ones among them; and apart what was late in the generator, or waited in it. */
export function lossesOf({ sent, failed, lateHere, queued, own, slowestMs, exchanges, broken, ended }: Stretch): string {
  const late = failed.filter(isLate).length
  const consuls = failed.filter(isConsuls).length
  const kinds = [late > 0 && `${late} late`, consuls > 0 && `${consuls} by Consul's gateway, which had lost its clusters`].filter(Boolean)
  const requests = `${failed.length} of ${sent} failed${kinds.length > 0 ? ` (${kinds.join(', ')})` : ''}, slowest ${slowestMs} ms`
  const tunnels = `${broken.length} of ${exchanges} exchanges lost${ended > 0 ? `, ${ended} tunnels ended` : ''}`
  return `${requests}; ${tunnels}; generator: ${lateHere} late by itself, ${queued} queued, stood ${own.loopMs} ms, control ${own.controlMs} ms`
}

/** What went wrong, by kind: how often, and the first and the last of it. */
export function problemsOf({ failed, broken }: Stretch): string[] {
  const kinds = new Map<string, string[]>()
  for (const problem of [...broken, ...failed]) {
    const kind = isLate(problem) ? 'late' : problem.slice(problem.indexOf(': ') + 2)
    kinds.set(kind, [...(kinds.get(kind) ?? []), problem])
  }
  return [...kinds].map(([kind, all]) => `${all.length} x ${kind}: from "${all[0]}" to "${all.at(-1)}"`)
}
