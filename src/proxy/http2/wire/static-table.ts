/** The static table (RFC 7541 appendix A), as the decoder and the encoder look into it. Invariant: its strings are shared by all connections. */
import { badName, badValue } from './octets.ts'

/** A field of a table, or of a list on its way into one. */
export class TableField {
  readonly name: string
  readonly value: string
  /** As RFC 7541 4.1 counts, which is how RFC 9113 6.5.2 counts too. */
  readonly size: number
  /** badName, badValue, both or 0. Known from when it was read, so nobody looks at it again. */
  readonly bad: number

  constructor(name: string, value: string, bad: number) {
    this.name = name
    this.value = value
    this.size = name.length + value.length + fieldOverhead
    this.bad = bad
  }
}

export const fieldOverhead = 32

/** A line is a name and the values that come with it; a name without any has the empty value. */
const lines = `:authority
:method GET|POST
:path /|/index.html
:scheme http|https
:status 200|204|206|304|400|404|500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate`

export interface StaticName {
  /** Of its first field. */
  readonly index: number
  /** Index by value. */
  readonly values: ReadonlyMap<string, number>
}

/** Stands where there is no field. */
export const noField = new TableField('', '', badName | badValue)

/** By index, which begins at 1. */
export const staticFields: readonly TableField[] = [
  noField,
  ...lines.split('\n').flatMap(line => {
    const [name, ...rest] = line.split(' ')
    return rest
      .join(' ')
      .split('|')
      .map(value => new TableField(name!, value, 0))
  }),
]

export const firstDynamicIndex = staticFields.length

export const staticNames: ReadonlyMap<string, StaticName> = byName()

function byName(): Map<string, StaticName> {
  const names = new Map<string, { index: number; values: Map<string, number> }>()
  for (const [index, { name, value }] of staticFields.entries()) {
    if (index === 0) continue
    const known = names.get(name) ?? { index, values: new Map<string, number>() }
    known.values.set(value, index)
    names.set(name, known)
  }
  return names
}
