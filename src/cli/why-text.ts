/** A `why` report and a live probe, as people read them: a line for each step, what it came from in brackets, the next step last. */
import type { WhyEndpoint, WhyReport, WhyRule, WhyStep } from '../mesh/why-report.ts'
import type { ProbeReport } from './why-probe.ts'

const marks = { ok: 'ok', warning: '! ', failed: 'NO', unknown: '? ' } as const
const maxListed = 20

export function reportText(report: WhyReport): string {
  const { source, destination, request, verdict, text, next } = report
  const lines = [
    `${source} -> ${destination} ${request.method} ${request.path}`,
    '',
    ...report.steps.flatMap(stepLines),
    '',
    `${verdict}: ${text}`,
  ]
  if (next) lines.push(`next: ${next}`)
  return lines.join('\n')
}

function stepLines(step: WhyStep): string[] {
  const from = (step.from ?? []).map(({ entry, index }) => `${entry} @${index}`).join(', ')
  const target = step.target === undefined ? '' : `${step.target}: `
  const head = `  ${marks[step.state]} ${step.step.padEnd(10)} ${target}${step.text}${from === '' ? '' : ` [${from}]`}`
  const certificates = (step.certificates ?? []).map(
    ({ subject, notAfter, expired }) => `${subject}, until ${notAfter}${expired ? ', EXPIRED' : ''}`,
  )
  const details = [
    ...(step.details ?? []),
    ...listed((step.endpoints ?? []).map(endpointLine)),
    ...certificates,
    ...listed((step.intentions ?? []).flatMap(ruleLines)),
  ]
  return [head, ...details.map(line => `       ${line}`)]
}

function listed(lines: string[]): string[] {
  return lines.length <= maxListed ? lines : [...lines.slice(0, maxListed), `and ${lines.length - maxListed} more; --format json has all`]
}

function endpointLine({ address, port, id, healthy, health }: WhyEndpoint): string {
  return `${address}:${port} ${healthy ? 'healthy' : 'DOWN'} (${id.split('@')[0]}${health === '' ? '' : `: ${health}`})`
}

function ruleLines({ rule, entry, index, precedence, decides, why, permissions = [] }: WhyRule): string[] {
  const head = `${decides ? '*' : '-'} ${rule} (precedence ${precedence})${why === '' ? '' : ` ${why}`} [${entry} @${index}]`
  const lines = permissions.map(each => {
    const said = each.why === '' ? (each.matches ? 'matches' : '') : each.why
    return `    ${each.decides ? '*' : '-'} permission ${each.permission} (${each.action}) ${said}`
  })
  return [head, ...lines]
}

export function probeText({ sent, outcome, agrees, differs, endpoints }: ProbeReport): string {
  const lines = [`live: ${sent}`, `  ${outcome}`, ...endpoints.map(({ at, text }) => `  ${at} ${text}`)]
  lines.push(differs === '' ? (agrees ? '  as explained above' : '  nothing to compare it with') : `  DIFFERS: ${differs}`)
  return lines.join('\n')
}
