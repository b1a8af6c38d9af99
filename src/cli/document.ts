/** Documents that an operator writes: HCL, JSON or YAML. Whichever it is, what comes out is the same map of keys. */
import { parse as parseYaml } from 'yaml'
import { messageOf } from '../lib/errors.ts'
import { parseHcl } from '../lib/hcl.ts'
import { CliError } from './context.ts'

/** A map of keys. `name` is the file's, or `-`. */
export function parseDocument(text: string, name: string): Record<string, unknown> {
  const where = name === '-' ? 'standard input' : name
  if (!text.trimStart().startsWith('{') && (name.endsWith('.hcl') || looksLikeHcl(text))) {
    const parsed = parseHcl(text)
    if (!parsed.ok) throw new CliError(`Failed to parse ${where}: ${parsed.message}`)
    return parsed.value
  }
  let value: unknown
  try {
    value = text.trimStart().startsWith('{') ? JSON.parse(text) : parseYaml(text)
  } catch (error) {
    throw new CliError(`${where} is neither HCL nor JSON nor YAML: ${messageOf(error)}`, 1, { cause: error })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new CliError(`${where} must hold a map of keys, as HCL, JSON or YAML`)
  }
  return value as Record<string, unknown>
}

/** HCL's first statement: `key = value`, `block {` or `block "label" {`, or a comment that is none in YAML. */
function looksLikeHcl(text: string): boolean {
  const first = text
    .split('\n')
    .map(line => line.trim())
    .find(line => line !== '' && !line.startsWith('#'))
  return first !== undefined && /^(?:\/\/|\/\*|"?[A-Za-z_][\w-]*"?\s*(?:=|(?:"[^"]*"\s*)*\{))/.test(first)
}

/** The value of a key in any of Consul's spellings (`Kind`, `kind`). */
export function field(document: Record<string, unknown>, name: string): unknown {
  const fold = (text: string) => text.toLowerCase().replaceAll('_', '')
  const key = Object.keys(document).find(each => fold(each) === fold(name))
  return key === undefined ? undefined : document[key]
}
