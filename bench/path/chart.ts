/** CPU for a request by the number of connections, a line for each contender, as an SVG that needs nothing else. */
import { machineLine } from './table.ts'
import type { Measured, Report, ScenarioReport } from './report.ts'

const width = 760
const height = 440
const plot = { left: 64, right: 170, top: 56, bottom: 48 } as const
/** Told apart by those who do not see all colours; ours is the first. */
const colours = ['#d55e00', '#0072b2', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#555555', '#000000']

interface Line {
  name: string
  points: { x: number; y: number; low: number; high: number }[]
}

/** Of the scenarios `small-N`. */
export function connectionsChart(report: Report): string {
  const scenarios = report.scenarios.filter(({ hop, name }) => hop === 'http' && name.startsWith('small-'))
  const lines = linesOf(scenarios)
  const top = niceTop(Math.max(1, ...lines.flatMap(({ points }) => points.map(({ high }) => high))))
  const across = width - plot.left - plot.right
  const down = height - plot.top - plot.bottom
  const x = (i: number) => plot.left + (scenarios.length < 2 ? across / 2 : (i * across) / (scenarios.length - 1))
  const y = (micros: number) => plot.top + down * (1 - micros / top)
  const grid = [0, 0.25, 0.5, 0.75, 1].map(part => {
    const at = y(part * top)
    return `<line x1="${plot.left}" x2="${plot.left + across}" y1="${at}" y2="${at}" stroke="#ddd"/>${text(plot.left - 8, at + 4, String(part * top), 'end')}`
  })
  const ticks = scenarios.map(({ connections }, i) => text(x(i), height - plot.bottom + 18, String(connections), 'middle'))
  const drawn = lines.map(({ name, points }, i) => {
    const colour = colours[i % colours.length]!
    const path = points.map(point => `${x(point.x)},${y(point.y).toFixed(1)}`).join(' ')
    const spreads = points.map(
      point =>
        `<line x1="${x(point.x)}" x2="${x(point.x)}" y1="${y(point.low).toFixed(1)}" y2="${y(point.high).toFixed(1)}" stroke="${colour}"/>` +
        `<circle cx="${x(point.x)}" cy="${y(point.y).toFixed(1)}" r="3" fill="${colour}"/>`,
    )
    const legendY = plot.top + 10 + i * 20
    const legendX = width - plot.right + 16
    const legend = `<rect x="${legendX}" y="${legendY - 9}" width="12" height="12" fill="${colour}"/>${text(legendX + 18, legendY + 1, name)}`
    return `<polyline fill="none" stroke="${colour}" stroke-width="2" points="${path}"/>${spreads.join('')}${legend}`
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
${text(plot.left, 22, 'CPU for a request of a pair of proxies over mTLS, µs (less is better); median and middle half of rounds')}
${text(plot.left, 40, `${machineLine(report.machine)}; ${report.rounds} rounds of ${report.seconds} s`, 'start', 10)}
${grid.join('\n')}
${ticks.join('\n')}
${text(plot.left + across / 2, height - 8, 'connections, closed loop, GET of 64 bytes', 'middle')}
${drawn.join('\n')}
</svg>
`
}

function linesOf(scenarios: readonly ScenarioReport[]): Line[] {
  const names = new Map<string, Line>()
  scenarios.forEach(({ measured }, x) => {
    for (const each of measured.filter(isProxied)) {
      const line = names.get(each.name) ?? { name: each.name, points: [] }
      const { median: y, p25: low, p75: high } = each.cpuMicros
      line.points.push({ x, y, low, high })
      names.set(each.name, line)
    }
  })
  return [...names.values()]
}

const isProxied = ({ cpu }: Measured) => Object.keys(cpu).length > 0

/** The next of 1, 2, 4, 8 times a power of ten: quarters of it are short numbers. */
function niceTop(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 4, 8, 10].map(each => each * power).find(each => each >= value)!
}

function text(x: number, y: number, words: string, anchor = 'start', size = 12): string {
  const escaped = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}" fill="#222">${escaped}</text>`
}
