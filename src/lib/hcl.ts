/**
 * Reads HCL as Consul's files use it (version 1 of the language): attributes, blocks, objects, lists, heredocs and comments, and
 * nothing that would have to be evaluated: `${...}` stays text. Strict: whatever is not exactly that is an error with its line and
 * column. There is no HCL parser on npm that is kept up and written in JavaScript; the others compile the Go one.
 *
 * A block is a map under its name; of several blocks of one name a list. A label is one more map: `a "b" { }` is `a = { b = { } }`.
 */

export type Hcl = string | number | boolean | Hcl[] | { [key: string]: Hcl }

export type ParsedHcl =
  | { ok: true; value: { [key: string]: Hcl } }
  /** `message` begins with the place, as Consul writes it: `At 3:5: `. */
  | { ok: false; line: number; column: number; message: string }

export const hclLimits = { maxCharacters: 16 * 1024 * 1024, maxDepth: 64 } as const

export function parseHcl(text: string): ParsedHcl {
  const parser = new Parser(text)
  try {
    return { ok: true, value: parser.file() }
  } catch (error) {
    if (!(error instanceof Malformed)) throw error
    const before = text.slice(0, error.at)
    const line = before.split('\n').length
    const column = error.at - before.lastIndexOf('\n')
    return { ok: false, line, column, message: `At ${line}:${column}: ${error.message}` }
  }
}

/** Ends the parser; never leaves this file. */
class Malformed extends Error {
  readonly at: number

  constructor(message: string, at: number) {
    super(message)
    this.at = at
  }
}

const blank = /[ \t\r\n]+|#[^\n]*|\/\/[^\n]*|\/\*[^]*?\*\//y
const identifier = /[A-Za-z_][A-Za-z0-9_.-]*/y
const number = /-?(?:0[xX][0-9A-Fa-f]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![A-Za-z0-9_.])/y
const heredocStart = /<<(-?)([A-Za-z0-9_]+)[ \t]*\r?\n/y

class Parser {
  readonly #text: string
  #at = 0
  #depth = 0

  constructor(text: string) {
    this.#text = text
  }

  file(): { [key: string]: Hcl } {
    if (this.#text.length > hclLimits.maxCharacters) this.#fail(`longer than ${hclLimits.maxCharacters} characters`)
    if (this.#text.startsWith('\uFEFF')) this.#at = 1
    return this.#items(undefined)
  }

  /** Everything up to `end`; the items of a file end with it. */
  #items(end: '}' | undefined): { [key: string]: Hcl } {
    const start = this.#at
    const items = new Map<string, Item>()
    for (;;) {
      this.#skip()
      const next = this.#text[this.#at]
      if (next === undefined) {
        if (end === undefined) break
        this.#fail('object is never closed: expected "}"', start - 1)
      }
      if (next === end) {
        this.#at += 1
        break
      }
      this.#item(items)
      this.#skip()
      // A comma may stand between the items of an object.
      if (end !== undefined && this.#text[this.#at] === ',') this.#at += 1
    }
    return Object.fromEntries([...items].map(([key, item]): [string, Hcl] => [key, item.values.length > 1 ? item.values : item.values[0]!]))
  }

  #item(items: Map<string, Item>): void {
    const at = this.#at
    const key = this.#key()
    this.#skip()
    const sign = this.#text[this.#at]
    if (sign === '=') {
      this.#at += 1
      this.#skip()
      const block = this.#text[this.#at] === '{'
      this.#add(items, key, { block, value: this.#value() }, at)
      return
    }
    const labels: string[] = []
    while (this.#text[this.#at] !== '{') {
      if (labels.length >= hclLimits.maxDepth) this.#fail('too many labels')
      if (this.#at >= this.#text.length) this.#fail(`expected "=" or "{" after ${JSON.stringify(key)}`)
      labels.push(this.#key(`expected "=" or "{" after ${JSON.stringify(key)}`))
      this.#skip()
    }
    const value = labels.reduceRight<Hcl>((inner, label) => Object.fromEntries([[label, inner]]), this.#value())
    this.#add(items, key, { block: true, value }, at)
  }

  /** Blocks of one name make a list; anything else that comes twice is a mistake. */
  #add(items: Map<string, Item>, key: string, { block, value }: { block: boolean; value: Hcl }, at: number): void {
    const known = items.get(key)
    if (!known) items.set(key, { block, values: [value] })
    else if (known.block && block) known.values.push(value)
    else this.#fail(`${JSON.stringify(key)} is given twice`, at)
  }

  #key(otherwise = 'expected the name of a key'): string {
    const name = this.#match(identifier)
    if (name) return name[0]
    if (this.#text[this.#at] === '"') return this.#string()
    return this.#fail(`${otherwise}, found ${this.#found()}`)
  }

  #value(): Hcl {
    const next = this.#text[this.#at]
    if (next === '{' || next === '[') {
      if (this.#depth >= hclLimits.maxDepth) this.#fail(`nested deeper than ${hclLimits.maxDepth}`)
      this.#depth += 1
      this.#at += 1
      const value = next === '{' ? this.#items('}') : this.#list()
      this.#depth -= 1
      return value
    }
    if (next === '"') return this.#string()
    if (next === '<') return this.#heredoc()
    const digits = this.#match(number)
    if (digits) return numberOf(digits[0])
    const at = this.#at
    const word = this.#match(identifier)?.[0]
    if (word === 'true' || word === 'false') return word === 'true'
    if (word !== undefined) this.#fail(`${word} is no value; texts stand in double quotes`, at)
    return this.#fail(`expected a value, found ${this.#found()}`)
  }

  #list(): Hcl[] {
    const start = this.#at
    const list: Hcl[] = []
    for (;;) {
      this.#skip()
      if (this.#text[this.#at] === ']') break
      if (this.#at >= this.#text.length) this.#fail('list is never closed: expected "]"', start - 1)
      list.push(this.#value())
      this.#skip()
      const next = this.#text[this.#at]
      if (next === ',') this.#at += 1
      else if (next !== ']')
        this.#fail(next === undefined ? 'list is never closed: expected "]"' : `expected "," or "]", found ${this.#found()}`)
    }
    this.#at += 1
    return list
  }

  /** What stands in `${...}` may hold quotes and lines of its own. */
  #string(): string {
    const start = this.#at
    this.#at += 1
    let braces = 0
    let out = ''
    for (;;) {
      const next = this.#text[this.#at]
      if (next === undefined || (next === '\n' && braces === 0)) this.#fail('text is never closed: expected a double quote', start)
      if (next === '"' && braces === 0) break
      if (next === '\\' && braces === 0) {
        out += this.#escape()
        continue
      }
      if (braces === 0 ? next === '$' && this.#text[this.#at + 1] === '{' : next === '{') {
        braces += 1
        if (braces === 1) {
          out += '${'
          this.#at += 2
          continue
        }
      } else if (next === '}' && braces > 0) braces -= 1
      out += next
      this.#at += 1
    }
    this.#at += 1
    return out
  }

  #escape(): string {
    const at = this.#at
    const match = this.#match(/\\(?:([abfnrtv\\"])|([0-7]{3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))/y)
    if (!match) return this.#fail('unknown escape in a text', at)
    const [, plain, octal, ...hex] = match
    if (plain !== undefined) return escapes[plain]!
    const code =
      octal === undefined
        ? Number.parseInt(
            hex.find(each => each !== undefined)!,
            16,
          )
        : Number.parseInt(octal, 8)
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) this.#fail('an escape names no character', at)
    return String.fromCodePoint(code)
  }

  #heredoc(): string {
    const at = this.#at
    const start = this.#match(heredocStart)
    if (!start) return this.#fail('expected a heredoc: <<NAME and a new line', at)
    const [, dash, marker] = start as unknown as [string, string, string]
    const lines: string[] = []
    for (;;) {
      const end = this.#text.indexOf('\n', this.#at)
      const line = this.#text.slice(this.#at, end < 0 ? undefined : end)
      // The marker stands alone on its line; a comma of the list that the heredoc is in may follow.
      const closing = /^([ \t]*)([A-Za-z0-9_]+)/.exec(line)
      if (closing?.[2] === marker && /^\s*[,\]})]*\s*$/.test(line.slice(closing[0].length))) {
        this.#at += closing[0].length
        return unindented(lines, dash === '-' ? closing[1]! : '')
      }
      if (end < 0) return this.#fail(`heredoc is never closed: expected a line ${marker}`, at)
      lines.push(line)
      this.#at = end + 1
    }
  }

  #skip(): void {
    while (this.#match(blank));
    if (this.#text.startsWith('/*', this.#at)) this.#fail('comment is never closed: expected "*/"')
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at
    const match = pattern.exec(this.#text)
    if (!match) return undefined
    this.#at = pattern.lastIndex
    return match
  }

  #found(): string {
    const next = this.#text.codePointAt(this.#at)
    return next === undefined ? 'the end' : JSON.stringify(String.fromCodePoint(next))
  }

  #fail(message: string, at = this.#at): never {
    throw new Malformed(message, at)
  }
}

interface Item {
  block: boolean
  values: Hcl[]
}

const escapes: Record<string, string> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
  '"': '"',
}

/** As Go reads it: a leading 0 is octal. */
function numberOf(text: string): number {
  const octal = /^(-?)0([0-7]+)$/.exec(text)
  if (octal) return (octal[1] === '-' ? -1 : 1) * Number.parseInt(octal[2]!, 8)
  return text.startsWith('-') ? -Number(text.slice(1)) : Number(text)
}

/** Takes the indentation of the closing marker off every line, if every line has it. */
function unindented(lines: string[], indentation: string): string {
  const all = lines.every(line => line.startsWith(indentation))
  return lines.map(line => `${all ? line.slice(indentation.length) : line}\n`).join('')
}
