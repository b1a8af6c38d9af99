/**
 * Filters (spec/http-api.md 1.9) of the API's lists and of a resolver's subsets: a filter is compiled once against the schema of what it
 * filters, so that a selector that does not exist is an error even where nothing would be compared. Values are the program's own (camelCase); selectors are Consul's
 * names, which the schema gives. Operators' regexes run on re2js: linear time, Go's syntax.
 */
import { RE2JS } from 're2js'
import * as z from 'zod'
import { messageOf } from '../../lib/errors.ts'
import { wireName } from '../../lib/shape.ts'
import { type Expression, FilterRefusal, type Operator, parseFilter } from './grammar.ts'

type Field =
  | { kind: 'string' | 'number' | 'bool' | 'opaque' }
  | { kind: 'struct'; members: Map<string, { key: string; field: Field }> }
  | { kind: 'list' | 'map'; element: Field }

type Test = (value: unknown) => boolean

export type CompiledFilter = { ok: true; test: Test } | { ok: false; problem: string }

/** A predicate over values of `schema`, or why the text is no filter over them, in Consul's words. */
export function compileFilter(text: string, schema: z.ZodType): CompiledFilter {
  try {
    return { ok: true, test: compile(parseFilter(text), fieldOf(schema)) }
  } catch (error) {
    if (error instanceof FilterRefusal) return { ok: false, problem: error.message }
    throw error
  }
}

/** Why a text is no filter, whatever it is about; undefined when it is one. */
export function filterProblem(text: string): string | undefined {
  try {
    parseFilter(text)
    return undefined
  } catch (error) {
    if (error instanceof FilterRefusal) return error.message
    throw error
  }
}

function compile(expression: Expression, field: Field): Test {
  if (expression.kind === 'not') {
    const operand = compile(expression.operand, field)
    return value => !operand(value)
  }
  if (expression.kind !== 'match') {
    const left = compile(expression.left, field)
    const right = compile(expression.right, field)
    return expression.kind === 'and' ? value => left(value) && right(value) : value => left(value) || right(value)
  }
  return compileMatch(expression, field)
}

interface Step {
  /** The member's name inside the program, or the map key. */
  key: string
  map: boolean
}

function compileMatch({ selector, operator, value }: Extract<Expression, { kind: 'match' }>, top: Field): Test {
  const steps: Step[] = []
  let field = top
  for (const [depth, name] of selector.entries()) {
    // Lists are looked through: the match holds when it holds for any element.
    while (field.kind === 'list') field = field.element
    const member = field.kind === 'struct' ? field.members.get(name) : undefined
    if (field.kind === 'map') {
      steps.push({ key: name, map: true })
      field = field.element
    } else if (member) {
      steps.push({ key: member.key, map: false })
      field = member.field
    } else throw new FilterRefusal(`Selector ${JSON.stringify(selector.slice(0, depth + 1).join('.'))} is not valid`)
  }
  const name = selector.join('.')
  const test = leafTest(field, operator, value, name)
  return walk(steps, 0, test, operator)
}

/** go-bexpr's names of the operators, for its error text. */
const operatorNames: Record<Operator, string> = {
  '==': 'Equal',
  '!=': 'Not Equal',
  in: 'In',
  'not in': 'Not In',
  'is empty': 'Is Empty',
  'is not empty': 'Is Not Empty',
  matches: 'Matches',
  'not matches': 'Not Matches',
}

const allowed: Record<Field['kind'], readonly Operator[]> = {
  string: ['==', '!=', 'in', 'not in', 'matches', 'not matches'],
  number: ['==', '!='],
  bool: ['==', '!='],
  list: ['in', 'not in', 'is empty', 'is not empty'],
  map: ['in', 'not in', 'is empty', 'is not empty'],
  struct: [],
  opaque: [],
}

function leafTest(field: Field, operator: Operator, value: string, name: string): Test {
  const scalars =
    field.kind !== 'list' || field.element.kind === 'string' || field.element.kind === 'number' || field.element.kind === 'bool'
  const operators = scalars ? allowed[field.kind] : (['is empty', 'is not empty'] as const)
  if (!operators.includes(operator)) {
    throw new FilterRefusal(`Invalid match operator ${JSON.stringify(operatorNames[operator])} for selector ${JSON.stringify(name)}`)
  }
  switch (operator) {
    case '==':
    case '!=': {
      const wanted = coerce(field.kind, value, name)
      return operator === '==' ? actual => (actual ?? zero(field)) === wanted : actual => (actual ?? zero(field)) !== wanted
    }
    case 'is empty':
    case 'is not empty':
      return actual => (sizeOf(actual) === 0) === (operator === 'is empty')
    case 'in':
    case 'not in': {
      const wanted = field.kind === 'list' ? coerce(field.element.kind, value, name) : value
      return actual => contains(actual, wanted) === (operator === 'in')
    }
    default: {
      const compiled = compileRegex(value)
      if (!compiled.ok) throw new FilterRefusal(`Failed to compile regular expression ${JSON.stringify(value)}: ${compiled.problem}`)
      return actual => compiled.regex.matcher(textOf(actual)).find() === (operator === 'matches')
    }
  }
}

function walk(steps: readonly Step[], depth: number, test: Test, operator: Operator): Test {
  const step = steps[depth]
  if (!step) return test
  const inner = walk(steps, depth + 1, test, operator)
  const one = (value: unknown): boolean => {
    const owner = value as Record<string, unknown> | null | undefined
    const found = owner !== null && owner !== undefined && Object.hasOwn(owner, step.key) ? owner[step.key] : undefined
    // A key that is not there equals nothing: only the negations hold.
    if (step.map && found === undefined) return operator === '!=' || operator === 'not in' || operator === 'not matches'
    return inner(found)
  }
  return value => (Array.isArray(value) ? value.some(one) : one(value))
}

function zero(field: Field): unknown {
  return field.kind === 'number' ? 0 : field.kind === 'bool' ? false : ''
}

function sizeOf(value: unknown): number {
  if (value === undefined || value === null) return 0
  return Array.isArray(value) ? value.length : Object.keys(value).length
}

/** The schema says that it is text; what is absent is Go's empty string. */
function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

function contains(actual: unknown, wanted: unknown): boolean {
  if (Array.isArray(actual)) return actual.includes(wanted)
  if (typeof actual === 'object' && actual !== null) return Object.hasOwn(actual, String(wanted))
  return textOf(actual).includes(String(wanted))
}

function coerce(kind: Field['kind'], value: string, name: string): unknown {
  if (kind === 'string') return value
  const bad = (goFunction: string) =>
    new FilterRefusal(
      `Failed to coerce value ${JSON.stringify(value)} for selector ${JSON.stringify(name)}: strconv.${goFunction}: parsing ${JSON.stringify(value)}: invalid syntax`,
    )
  if (kind === 'bool') {
    if (/^(?:1|t|T|true|TRUE|True)$/.test(value)) return true
    if (/^(?:0|f|F|false|FALSE|False)$/.test(value)) return false
    throw bad('ParseBool')
  }
  if (!/^-?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)$/.test(value)) throw bad('ParseInt')
  return value.startsWith('-') ? -Number(value.slice(1)) : Number(value)
}

/** An operator's regex in Go's syntax, or what is wrong with it in Go's words. */
export function compileRegex(pattern: string): { ok: true; regex: RE2JS } | { ok: false; problem: string } {
  try {
    return { ok: true, regex: RE2JS.compile(pattern) }
  } catch (error) {
    return { ok: false, problem: messageOf(error).replace(/: `?([^`]*)`?$/, ': `$1`') }
  }
}

const fields = new WeakMap<z.core.$ZodType, Field>()

/** What may be selected in values of a schema: its members under their wire names. */
function fieldOf(schema: z.core.$ZodType): Field {
  const known = fields.get(schema)
  if (known) return known
  const field = buildField(schema)
  fields.set(schema, field)
  return field
}

function buildField(schema: z.core.$ZodType): Field {
  if (schema instanceof z.ZodObject) {
    const members = Object.entries(schema.shape as Record<string, z.core.$ZodType>).map(
      ([key, type]) => [wireOf(key, type), { key, field: fieldOf(type) }] as const,
    )
    return { kind: 'struct', members: new Map(members) }
  }
  if (schema instanceof z.ZodArray) return { kind: 'list', element: fieldOf(schema.def.element) }
  if (schema instanceof z.ZodRecord) return { kind: 'map', element: fieldOf(schema.def.valueType) }
  if (
    schema instanceof z.ZodOptional ||
    schema instanceof z.ZodNullable ||
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault
  ) {
    return fieldOf(schema.def.innerType)
  }
  if (schema instanceof z.ZodString || schema instanceof z.ZodEnum || schema instanceof z.ZodLiteral) return { kind: 'string' }
  if (schema instanceof z.ZodNumber) return { kind: 'number' }
  if (schema instanceof z.ZodBoolean) return { kind: 'bool' }
  return { kind: 'opaque' }
}

function wireOf(key: string, type: z.core.$ZodType): string {
  const named = (schema: z.core.$ZodType): string | undefined => {
    const own = (z.globalRegistry.get(schema) as { wire?: string } | undefined)?.wire
    if (own !== undefined) return own
    const inner = (schema as { def?: { innerType?: z.core.$ZodType } }).def?.innerType
    return inner ? named(inner) : undefined
  }
  return named(type) ?? wireName(key)
}
