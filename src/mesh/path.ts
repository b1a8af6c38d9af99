/**
 * The forms of a request path that rules are judged against. A path that two programs could read as two different resources must
 * not slip between the rule and the app: the raw text, its normalised form (RFC 3986 6.2.2 and single slashes) and its fully
 * decoded form are all judged, and what no honest client sends is malformed (spec/data-plane.md 7.6, DESIGN 6).
 * Paths are "byte strings": one character per byte, as both codecs deliver them.
 */

export interface JudgedPath {
  raw: string
  /** Unreserved characters decoded, escapes in upper case, dot segments removed, slashes single. */
  normalised: string
  /** Every escape decoded, backslashes as slashes, then as above. Only denials look at it. */
  decoded: string
}

/** What a plain path never contains: with none of these the three forms are one and nothing is built. */
const unusual = /%|\\|\/\/|\/\.|[#\0]/
const malformedEscape = /%(?![0-9A-Fa-f]{2})|%00/
const unreserved = /[A-Za-z0-9._~-]/

/** The forms of a path without its query; undefined when it is malformed and the request is a 400. */
export function judgePath(raw: string): JudgedPath | undefined {
  if (raw.charCodeAt(0) !== 0x2f) return raw === '*' ? same(raw) : undefined
  if (!unusual.test(raw)) return same(raw)
  if (/[#\0]/.test(raw) || malformedEscape.test(raw)) return undefined
  const normalised = singleSlashes(removeDotSegments(decodeUnreserved(raw)))
  const bytes = decodeEscapes(normalised).replaceAll('\\', '/')
  // An encoded slash beside a dot segment, or a parameter on one (`/..;/`, which servlet containers climb by), is there to get out of
  // what the rule saw; nobody else writes it.
  if (hasDotSegment(bytes)) return undefined
  return { raw, normalised, decoded: singleSlashes(bytes) }
}

function same(path: string): JudgedPath {
  return { raw: path, normalised: path, decoded: path }
}

/** RFC 3986 6.2.2.1 and 6.2.2.2: escapes of unreserved characters are those characters; the hex of all others is upper case. */
export function decodeUnreserved(text: string): string {
  return text.replace(/%[0-9A-Fa-f]{2}/g, escape => {
    const character = String.fromCharCode(Number.parseInt(escape.slice(1), 16))
    return unreserved.test(character) ? character : escape.toUpperCase()
  })
}

/** Every well-formed escape as the byte it stands for, once: `%2541` becomes `%41`. */
export function decodeEscapes(text: string): string {
  return text.replace(/%[0-9A-Fa-f]{2}/g, escape => String.fromCharCode(Number.parseInt(escape.slice(1), 16)))
}

/** A text from configuration as a byte string, so that `/café` equals what a client sends for it. */
export function byteString(text: string): string {
  // oxlint-disable-next-line no-control-regex
  if (/^[\0-\x7f]*$/.test(text)) return text
  let out = ''
  for (const byte of new TextEncoder().encode(text)) out += String.fromCharCode(byte)
  return out
}

/** RFC 3986 5.2.4 for an absolute path; empty segments are dropped with the dots, so that `/a//../b` is `/b`, as file systems read it. */
function removeDotSegments(path: string): string {
  const out: string[] = []
  const segments = path.split('/')
  const last = segments.at(-1)
  for (const segment of segments) {
    if (segment === '..') out.pop()
    else if (segment !== '' && segment !== '.') out.push(segment)
  }
  const directory = last === '' || last === '.' || last === '..'
  return `/${out.join('/')}${directory && out.length > 0 ? '/' : ''}`
}

function singleSlashes(path: string): string {
  return path.replace(/\/{2,}/g, '/')
}

function hasDotSegment(path: string): boolean {
  return /(?:^|\/)\.{1,2}(?:[/;]|$)/.test(path)
}
