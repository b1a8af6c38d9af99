/**
 * What a route or a split does to the headers of a request or a response (Add, Set, Remove; spec/data-plane.md 9.4), compiled. Framing,
 * connection and identity of a message are never theirs to change, and a text that would break a line changes nothing: both are named.
 */
import type { HeaderModifiers } from './entry-members.ts'
import { byteString } from './path.ts'

/** A head that can be edited. */
export interface EditableHead {
  /** Every field of that name, in lower case. */
  remove(name: string): void
  append(name: string, value: string): void
}

export interface HeaderEdit {
  /** Removed before anything is added: the `Remove` and the names that are set anew. */
  remove: readonly string[]
  /** Flat: name, value, … */
  append: readonly string[]
}

const token = /^[!#$%&'*+.^_`|~0-9a-z-]+$/
// oxlint-disable-next-line no-control-regex
const unfit = /[\0-\x08\x0a-\x1f\x7f]/

/** Around a value, and no part of it (RFC 9110 5.5); HTTP/2 refuses them. */
const blanks = /^[ \t]+|[ \t]+$/g

const untouchable = new Set([
  'host',
  'connection',
  'keep-alive',
  'proxy-connection',
  'transfer-encoding',
  'content-length',
  'http2-settings',
  'te',
  'trailer',
  'upgrade',
  'expect',
  'x-forwarded-client-cert',
])

/** Whether an entry may name this header as one to add, to set or to remove; `name` in lower case. */
export function isEditable(name: string): boolean {
  return token.test(name) && !untouchable.has(name.replaceAll('_', '-'))
}

/** Undefined where there is nothing to do. `problems` gets what was left out. */
export function compileHeaderEdit(modifiers: HeaderModifiers | undefined, problems: string[]): HeaderEdit | undefined {
  const { add = {}, set = {}, remove = [] } = modifiers ?? {}
  const may = (given: string, value = ''): boolean => {
    const name = given.toLowerCase()
    if (isEditable(name) && !unfit.test(value)) return true
    problems.push(
      `the header ${JSON.stringify(given)} is not changed: ${token.test(name) && !isEditable(name) ? "it is not a route's to change" : 'it is no header'}`,
    )
    return false
  }
  const added = Object.entries(add).filter(([name, value]) => may(name, value))
  const setAnew = Object.entries(set).filter(([name, value]) => may(name, value))
  const names = [...remove.filter(name => may(name)), ...setAnew.map(([name]) => name)].map(name => name.toLowerCase())
  // Consul gives Envoy the additions first and then what overwrites, so that of a name with both only what is set remains.
  const overwritten = new Set(setAnew.map(([name]) => name.toLowerCase()))
  const kept = added.filter(([name]) => !overwritten.has(name.toLowerCase()))
  const append = [...kept, ...setAnew].flatMap(([name, value]) => [name.toLowerCase(), byteString(value.replaceAll(blanks, ''))])
  return names.length + append.length === 0 ? undefined : { remove: [...new Set(names)], append }
}

export function applyHeaderEdit(edit: HeaderEdit, head: EditableHead): void {
  for (const name of edit.remove) head.remove(name)
  for (let i = 0; i < edit.append.length; i += 2) head.append(edit.append[i]!, edit.append[i + 1]!)
}
