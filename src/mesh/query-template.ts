/**
 * Templates of prepared queries (spec/http-api.md 13): one query for every name with a prefix. What `${...}` stands for is put into
 * the texts of its service when a name is asked for. Regexes run on re2js, in linear time.
 */
import { compileRegex } from './filter/filter.ts'
import type { PreparedQuery } from './prepared-query.ts'

const limits = { texts: 256, renderedLength: 4096 } as const

interface Asked {
  full: string
  prefix: string
  suffix: string
  /** The groups of the regexp; the whole match is the first. */
  groups: readonly string[]
}

/** What is wrong with a query's template; undefined when nothing is, or when it is no template. */
export function checkTemplate(query: PreparedQuery): string | undefined {
  const { type, regexp } = query.template
  if (type === '') return undefined
  if (type !== 'name_prefix_match') return `Bad Template.Type '${type}'`
  const compiled = compileRegex(regexp)
  if (!compiled.ok) return `Bad Regexp: ${compiled.problem}`
  let problem: string | undefined
  mapTexts(query.service, text => {
    render(text, { full: '', prefix: '', suffix: '', groups: [] }, what => (problem ??= `Bad format '${text}': ${what}`))
    return text
  })
  return problem
}

/** The query that a template is for one name; its own name stays. */
export function renderTemplate(query: PreparedQuery, name: string): PreparedQuery {
  const { regexp, removeEmptyTags } = query.template
  const asked: Asked = {
    full: name,
    prefix: query.name,
    suffix: name.slice(query.name.length),
    groups: regexp === '' ? [] : groupsOf(regexp, name),
  }
  const service = mapTexts(query.service, text => render(text, asked, () => {}))
  if (removeEmptyTags && service.tags) service.tags = service.tags.filter(tag => tag !== '')
  return { ...query, service }
}

function groupsOf(regexp: string, name: string): string[] {
  const compiled = compileRegex(regexp)
  const matcher = compiled.ok ? compiled.regex.matcher(name) : undefined
  if (!matcher?.find()) return []
  return Array.from({ length: matcher.groupCount() + 1 }, (_, i) => matcher.group(i) ?? '')
}

function render(text: string, asked: Asked, bad: (what: string) => void): string {
  const rendered = text.replace(/\$\{([^}]*)\}/g, (whole, inner: string) => {
    const expression = inner.trim()
    const match = /^match\(\s*(\d{1,3})\s*\)$/.exec(expression)
    if (match) return asked.groups[Number(match[1])] ?? ''
    switch (expression) {
      case 'name.full':
        return asked.full
      case 'name.prefix':
        return asked.prefix
      case 'name.suffix':
        return asked.suffix
      case 'agent.segment':
        return ''
      default:
        bad(`unknown variable ${JSON.stringify(expression)}; use match(N), name.full, name.prefix, name.suffix or agent.segment`)
        return whole
    }
  })
  return rendered.slice(0, limits.renderedLength)
}

/** A copy of a service with each of its texts mapped; keys stay. */
function mapTexts(service: PreparedQuery['service'], map: (text: string) => string): PreparedQuery['service'] {
  let left: number = limits.texts
  const walk = (value: unknown): unknown => {
    if (typeof value === 'string') return (left -= 1) < 0 ? value : map(value)
    if (Array.isArray(value)) return value.map(walk)
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, walk(each)]))
  }
  return walk(service) as PreparedQuery['service']
}
