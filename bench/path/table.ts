/** The report as text. Medians, with the middle half of the rounds in brackets; ratios with their 95 % interval. */
import type { Absent } from './pair.ts'
import type { Machine, Measured, MemoryReport, Report, ScenarioReport } from './report.ts'
import type { Interval, Summary } from './statistics.ts'

type Row = string[]

export function heading({ machine, backend, rounds, seconds }: Report): string {
  return `${machineLine(machine)}\n${rounds} rounds of ${seconds} s each, contenders in turn; app: ${backend}`
}

/** What a reader must not take for measured. */
export function missingLine({ name, reason }: Absent): string {
  return `NOT MEASURED: ${name}: ${reason}`
}

export function machineLine({ cpu, cores, kernel, node, pinned }: Machine): string {
  const where = pinned ? 'proxies on core 0, load and app on core 1' : 'NOT pinned to cores: figures are rough'
  return `${cpu}, ${cores} cores, Linux ${kernel}, Node ${node}; ${where}`
}

export function scenarioTable(report: ScenarioReport): string {
  const added = report.open && report.measured.some(each => each.addedMs)
  const head = [
    '',
    'CPU µs/request',
    'by process',
    'requests/s',
    added ? 'added mean ms' : 'mean ms',
    added ? 'added p50' : 'p50',
    added ? 'added p99' : 'p99',
    'errors',
  ]
  const rows = report.measured.map(each => row(each, added))
  const ratios = report.ratios.map(({ of, over, ...ratio }) => [`${of} / ${over}`, interval(ratio)])
  return [`\n${report.name}: ${report.what}`, aligned([head, ...rows]), ...(ratios.length > 0 ? ['CPU ratio', aligned(ratios)] : [])].join(
    '\n',
  )
}

function row(each: Measured, added: boolean): Row {
  const proxies = Object.keys(each.cpu).length > 0
  const times =
    added && each.addedMs
      ? [each.addedMs.mean, each.addedMs.p50, each.addedMs.p99].map(interval)
      : [each.meanMs, each.p50Ms, each.p99Ms].map(spread)
  const parts = [...Object.entries(each.cpu), ...Object.entries(each.besideMicros).map(([role, value]) => [`(${role})`, value] as const)]
  return [
    `${each.name} ${each.version}`.trim(),
    proxies ? spread(each.cpuMicros) : '-',
    parts.map(([role, value]) => `${role} ${short(value)}`).join(', '),
    spread(each.requestsPerSecond),
    ...times,
    each.errors === 0 ? '' : `${each.errors} of ${each.requests}`,
  ]
}

export function memoryTable(reports: readonly MemoryReport[]): string {
  const mib = (bytes: number) => (bytes / 1024 / 1024).toFixed(1)
  const rows = reports.map(({ name, what, resident }) => [
    name,
    what,
    Object.entries(resident)
      .map(([role, bytes]) => `${role} ${mib(bytes)}`)
      .join(', '),
  ])
  return `\nresident memory, MiB\n${aligned(rows)}`
}

function spread({ median, p25, p75 }: Summary): string {
  return Number.isNaN(median) ? '-' : `${short(median)} [${short(p25)}-${short(p75)}]`
}

function interval({ median, low, high }: Interval): string {
  return Number.isNaN(median) ? '-' : `${median.toFixed(2)} (${low.toFixed(2)}-${high.toFixed(2)})`
}

/** Three digits that mean something. */
function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

export function aligned(rows: readonly Row[]): string {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map(each => (each[i] ?? '').length)))
  return rows.map(each => `  ${each.map((cell, i) => cell.padEnd(widths[i]!)).join('  ')}`.trimEnd()).join('\n')
}
