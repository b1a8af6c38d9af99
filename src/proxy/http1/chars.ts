/**
 * Byte classes of HTTP/1.1 as 256-entry tables, and the comparisons made on bytes. A byte outside a class is refused, never mended.
 */

export const CR = 13
export const LF = 10
export const SP = 32
export const TAB = 9
export const COLON = 58

function table(fill: (set: (chars: string, value?: number) => void, bytes: Uint8Array) => void): Uint8Array {
  const bytes = new Uint8Array(256)
  fill((chars, value) => {
    for (const char of chars) bytes[char.charCodeAt(0)] = value ?? char.charCodeAt(0)
  }, bytes)
  return bytes
}

const digits = '0123456789'
const upper = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
const lower = 'abcdefghijklmnopqrstuvwxyz'

/** tchar (RFC 9110 5.6.2) to its lower case; 0 is no tchar. */
export const token = table((set, bytes) => {
  set("!#$%&'*+-.^_`|~" + digits + lower)
  for (const char of upper) bytes[char.charCodeAt(0)] = char.charCodeAt(0) + 32
})

/** As `token`, and `_` becomes `-`: applications of the CGI family cannot tell the two apart. */
export const folded = table((_, bytes) => {
  bytes.set(token)
  bytes[95] = 45
})

/** tchar without lower-case letters: methods are case-sensitive (RFC 9110 9.1), and some applications fold their case. */
export const methodByte = table(set => set("!#$%&'*+-.^_`|~" + digits + upper, 1))

/**
 * What a target may hold: visible ASCII without `#` (a fragment is never sent), `"`, `<` and `>`. 2 is the `?`, 3 is the backslash, which
 * URL parsers read as a slash: refused in a path. The rest that RFC 3986 excludes but browsers send in queries passes.
 */
export const targetByte = table((set, bytes) => {
  for (let byte = 0x21; byte < 0x7f; byte++) bytes[byte] = 1
  set('#"<>', 0)
  set('?', 2)
  set('\\', 3)
})

/** Host names and IPv4 literals; the bracketed IPv6 form has its own rule. */
export const hostByte = table(set => set('-._~' + digits + lower + upper, 1))

/** Hexadecimal digits to value + 1; 0 is none. */
export const hexByte = table((_, bytes) => {
  for (let digit = 0; digit < 16; digit++) bytes[digit.toString(16).charCodeAt(0)] = digit + 1
  for (let digit = 10; digit < 16; digit++) bytes[digit.toString(16).toUpperCase().charCodeAt(0)] = digit + 1
})

/** Whether the bytes from `start` are `name` (lower case, with hyphens), whatever their case; `_` counts as `-`. The lengths are equal. */
export function nameIs(buffer: Buffer, start: number, name: string): boolean {
  for (let i = 0; i < name.length; i++) if (folded[buffer[start + i]!] !== name.charCodeAt(i)) return false
  return true
}

/** Whether the bytes [from, to) are the token `value` (lower case), whatever their case. */
export function valueIs(buffer: Buffer, from: number, to: number, value: string): boolean {
  if (to - from !== value.length) return false
  for (let i = 0; i < value.length; i++) if (token[buffer[from + i]!] !== value.charCodeAt(i)) return false
  return true
}

/**
 * The first position from `start` whose byte may not be in a field value, or `stop`. Values are most of a head: four bytes a step while all
 * of them are 0x20 to 0x7e (measured: a third of the time of a table).
 */
export function valueEnd(buffer: Buffer, start: number, stop: number): number {
  const last = stop - 4
  let at = start
  while (at < stop) {
    while (at <= last) {
      const a = buffer[at]!
      const b = buffer[at + 1]!
      const c = buffer[at + 2]!
      const d = buffer[at + 3]!
      if (((a - 32) | (b - 32) | (c - 32) | (d - 32) | (126 - a) | (126 - b) | (126 - c) | (126 - d)) < 0) break
      at += 4
    }
    const slow = at < last ? at + 4 : stop
    for (; at < slow; at++) {
      const byte = buffer[at]!
      if ((byte < 32 && byte !== TAB) || byte === 127) return at
    }
  }
  return stop
}

export function isDigit(byte: number): boolean {
  return byte >= 48 && byte <= 57
}
