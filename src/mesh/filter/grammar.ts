/**
 * The grammar of `?filter=` (go-bexpr 0.1, spec/http-api.md 1.9) as a parsing expression grammar with memory: linear in the length
 * of the text, and its refusals name the farthest position and what was expected there, word for word as go-bexpr's generated
 * parser does, because clients and people compare them.
 */

/** Characters, and parentheses within each other. */
export const filterLimits = { length: 4096, depth: 32 } as const

/** Why a text is no filter, in go-bexpr's words. Thrown and caught inside this folder only. */
export class FilterRefusal extends Error {}

export type Operator = '==' | '!=' | 'is empty' | 'is not empty' | 'in' | 'not in' | 'matches' | 'not matches'

export type Expression =
  | { kind: 'match'; selector: string[]; operator: Operator; value: string }
  | { kind: 'not'; operand: Expression }
  | { kind: 'and' | 'or'; left: Expression; right: Expression }

type Match<T> = { value: T; end: number } | undefined
type Rule<T> = (at: number) => Match<T>

const space = '[ \\t\\r\\n]'

/** Parses a filter; throws a `FilterRefusal` for one that is none. */
export function parseFilter(text: string): Expression {
  if (text.length > filterLimits.length) {
    throw new FilterRefusal(`${text.length} characters are more than ${filterLimits.length}; ask for less at a time`)
  }
  if (deepestParenthesis(text) > filterLimits.depth) {
    throw new FilterRefusal(`parentheses are nested deeper than ${filterLimits.depth}; write it flatter`)
  }
  return new Grammar(text).parse()
}

function deepestParenthesis(text: string): number {
  let depth = 0
  let deepest = 0
  for (const c of text) {
    if (c === '(') deepest = Math.max(deepest, (depth += 1))
    else if (c === ')') depth -= 1
  }
  return deepest
}

class Grammar {
  readonly #text: string
  #farthest = 0
  #expected = new Set<string>()
  /** Errors of rules that say more than what was expected, by their text. */
  readonly #errors = new Set<string>()
  readonly #memory = new Map<string, Map<number, Match<unknown>>>()

  constructor(text: string) {
    this.#text = text
  }

  parse(): Expression {
    const found = this.#input()
    if (this.#errors.size > 0) throw new FilterRefusal([...this.#errors].join('\n'))
    if (found) return found
    throw new FilterRefusal(`${this.#position(this.#farthest)}: no match found, expected: ${listed(this.#expected)}`)
  }

  #position(at: number): string {
    const lines = this.#text.slice(0, at).split('\n')
    const offset = new TextEncoder().encode(this.#text.slice(0, at)).length
    return `${lines.length}:${lines.at(-1)!.length + 1} (${offset})`
  }

  #fail(at: number, want: string): undefined {
    if (at < this.#farthest) return undefined
    if (at > this.#farthest) {
      this.#farthest = at
      this.#expected = new Set()
    }
    this.#expected.add(want)
    return undefined
  }

  #raise(at: number, rule: string, message: string): undefined {
    this.#errors.add(`${this.#position(at)}: rule ${rule}: ${message}`)
    return undefined
  }

  #remember<T>(name: string, rule: Rule<T>): Rule<T> {
    return at => {
      let known = this.#memory.get(name)
      if (!known) this.#memory.set(name, (known = new Map()))
      if (known.has(at)) return known.get(at) as Match<T>
      const match = rule(at)
      known.set(at, match)
      return match
    }
  }

  #literal(at: number, word: string): number | undefined {
    return this.#text.startsWith(word, at) ? at + word.length : this.#fail(at, JSON.stringify(word))
  }

  #class(at: number, pattern: RegExp, want: string): number | undefined {
    const c = this.#text[at]
    return c !== undefined && pattern.test(c) ? at + 1 : this.#fail(at, want)
  }

  #spaces(at: number): number | undefined {
    let end = this.#class(at, /[ \t\r\n]/, space)
    if (end === undefined) return undefined
    for (let next: number | undefined = end; next !== undefined; next = this.#class(end, /[ \t\r\n]/, space)) end = next
    return end
  }

  #maybeSpaces(at: number): number {
    return this.#spaces(at) ?? at
  }

  #atEnd(at: number): boolean {
    if (at >= this.#text.length) return true
    this.#fail(at, 'EOF')
    return false
  }

  #input(): Expression | undefined {
    const start = this.#maybeSpaces(0)
    const open = this.#literal(start, '(')
    if (open !== undefined) {
      const inner = this.#or(this.#maybeSpaces(open))
      const close = inner && this.#literal(this.#maybeSpaces(inner.end), ')')
      if (inner && close !== undefined && this.#atEnd(this.#maybeSpaces(close))) return inner.value
    }
    const whole = this.#or(start)
    return whole && this.#atEnd(this.#maybeSpaces(whole.end)) ? whole.value : undefined
  }

  readonly #or: Rule<Expression> = this.#remember('or', at => this.#binary(at, 'or', this.#and, this.#or))

  readonly #and: Rule<Expression> = this.#remember('and', at => this.#binary(at, 'and', this.#not, this.#and))

  #binary(at: number, word: 'or' | 'and', operand: Rule<Expression>, self: Rule<Expression>): Match<Expression> {
    const left = operand(at)
    if (!left) return undefined
    const before = this.#spaces(left.end)
    const after = before === undefined ? undefined : this.#literal(before, word)
    const start = after === undefined ? undefined : this.#spaces(after)
    const right = start === undefined ? undefined : self(start)
    return right ? { value: { kind: word, left: left.value, right: right.value }, end: right.end } : left
  }

  readonly #not: Rule<Expression> = this.#remember('not', at => {
    const word = this.#literal(at, 'not')
    const start = word === undefined ? undefined : this.#spaces(word)
    const operand = start === undefined ? undefined : this.#not(start)
    if (operand) return { value: { kind: 'not', operand: operand.value }, end: operand.end }
    return this.#group(at)
  })

  readonly #group: Rule<Expression> = this.#remember('group', at => {
    const open = this.#literal(at, '(')
    const inner = open === undefined ? undefined : this.#or(this.#maybeSpaces(open))
    if (inner) {
      const end = this.#maybeSpaces(inner.end)
      const close = this.#literal(end, ')')
      if (close !== undefined) return { value: inner.value, end: close }
      return this.#match(at) ?? this.#raise(end, '"grouping"', 'Unmatched parentheses')
    }
    return this.#match(at)
  })

  readonly #match: Rule<Expression> = this.#remember('match', at => this.#selectorFirst(at) ?? this.#valueFirst(at))

  /** `selector op value` and `selector is [not] empty`. */
  #selectorFirst(at: number): Match<Expression> {
    const selector = this.#selector(at)
    if (!selector) return undefined
    for (const [words, operator] of selectorOperators) {
      const after = this.#operator(selector.end, words)
      if (after === undefined) continue
      const value = this.#value(after)
      if (value) return { value: { kind: 'match', selector: selector.value, operator, value: value.value }, end: value.end }
    }
    for (const [words, operator] of emptyOperators) {
      const end = this.#words(selector.end, words)
      if (end !== undefined) return { value: { kind: 'match', selector: selector.value, operator, value: '' }, end }
    }
    return undefined
  }

  /** `value [not] in selector`. */
  #valueFirst(at: number): Match<Expression> {
    const value = this.#value(at)
    if (!value) return undefined
    for (const [words, operator] of memberOperators) {
      const after = this.#operator(value.end, words)
      if (after === undefined) continue
      const selector = this.#selector(after)
      if (selector) return { value: { kind: 'match', selector: selector.value, operator, value: value.value }, end: selector.end }
      return this.#raise(after, '"match"', 'Invalid selector')
    }
    return undefined
  }

  /** An operator with the space around it; `==` and `!=` need none. */
  #operator(at: number, words: readonly string[]): number | undefined {
    if (words[0] === '==' || words[0] === '!=') {
      const end = this.#literal(this.#maybeSpaces(at), words[0])
      return end === undefined ? undefined : this.#maybeSpaces(end)
    }
    const end = this.#words(at, words)
    return end === undefined ? undefined : this.#spaces(end)
  }

  #words(at: number, words: readonly string[]): number | undefined {
    let end: number | undefined = at
    for (const word of words) {
      const start = this.#spaces(end)
      end = start === undefined ? undefined : this.#literal(start, word)
      if (end === undefined) return undefined
    }
    return end
  }

  readonly #selector: Rule<string[]> = this.#remember('selector', at => {
    const first = this.#identifier(at)
    if (first === undefined) return undefined
    const path = [this.#text.slice(at, first)]
    let end = first
    for (;;) {
      const dot = this.#literal(end, '.')
      const next = dot === undefined ? undefined : this.#identifier(dot)
      if (dot !== undefined && next !== undefined) {
        path.push(this.#text.slice(dot, next))
        end = next
        continue
      }
      const index = this.#index(end)
      if (!index) return { value: path, end }
      path.push(index.value)
      end = index.end
    }
  })

  #identifier(at: number): number | undefined {
    let end = this.#class(at, /[a-zA-Z]/, '[a-zA-Z]')
    if (end === undefined) return undefined
    for (let next: number | undefined = end; next !== undefined; next = this.#class(end, /[a-zA-Z0-9_]/, '[a-zA-Z0-9_]')) end = next
    return end
  }

  #index(at: number): Match<string> {
    const open = this.#literal(at, '[')
    if (open === undefined) return undefined
    const start = this.#maybeSpaces(open)
    const key = this.#string(start)
    if (!key) return this.#raise(start, '"index"', 'Invalid index')
    const end = this.#maybeSpaces(key.end)
    const close = this.#literal(end, ']')
    return close === undefined ? this.#raise(end, '"index"', 'Unclosed index expression') : { value: key.value, end: close }
  }

  readonly #value: Rule<string> = this.#remember('value', at => {
    const selector = this.#selector(at)
    if (selector) return { value: selector.value.join('.'), end: selector.end }
    return this.#number(at) ?? this.#string(at)
  })

  #number(at: number): Match<string> {
    const minus = this.#literal(at, '-') ?? at
    const zero = this.#literal(minus, '0')
    let end = zero ?? this.#class(minus, /[1-9]/, '[1-9]')
    if (end === undefined) return undefined
    if (zero === undefined) end = this.#digits(end)
    const dot = this.#literal(end, '.')
    const fraction = dot === undefined ? undefined : this.#class(dot, /[0-9]/, '[0-9]')
    if (fraction !== undefined) end = this.#digits(fraction)
    const closed = this.#spaces(end) !== undefined || this.#atEnd(end) || this.#literal(end, ')') !== undefined
    return closed ? { value: this.#text.slice(at, end), end } : this.#raise(end, '"number"', 'Invalid number literal')
  }

  #digits(at: number): number {
    let end = at
    for (let next: number | undefined = end; next !== undefined; next = this.#class(end, /[0-9]/, '[0-9]')) end = next
    return end
  }

  #string(at: number): Match<string> {
    const raw = this.#literal(at, '`')
    const open = raw ?? this.#literal(at, '"')
    if (open === undefined) return undefined
    const close = this.#text.indexOf(raw === undefined ? '"' : '`', open)
    if (close === -1) return this.#raise(this.#text.length, '"string"', 'Unterminated string literal')
    const body = this.#text.slice(open, close)
    const value = raw === undefined ? unquoted(body) : body
    return value === undefined ? this.#raise(at, '"string"', 'invalid syntax') : { value, end: close + 1 }
  }
}

const selectorOperators = [
  [['=='], '=='],
  [['!='], '!='],
  [['contains'], 'in'],
  [['not', 'contains'], 'not in'],
  [['matches'], 'matches'],
  [['not', 'matches'], 'not matches'],
] as const
const emptyOperators = [
  [['is', 'empty'], 'is empty'],
  [['is', 'not', 'empty'], 'is not empty'],
] as const
const memberOperators = [
  [['in'], 'in'],
  [['not', 'in'], 'not in'],
] as const

/** Go's strconv.Unquote for the escapes that JSON knows too; the text cannot hold a quote. */
function unquoted(body: string): string | undefined {
  if (!body.includes('\\')) return body.includes('\n') ? undefined : body
  try {
    return JSON.parse(`"${body}"`) as string
  } catch {
    return undefined
  }
}

function listed(expected: Set<string>): string {
  const words = [...expected].filter(word => word !== 'EOF').sort()
  if (expected.has('EOF')) words.push('EOF')
  return words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`
}
