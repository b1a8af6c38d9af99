/** The files of the agent's configuration as maps of keys, whatever language they are in; what the keys mean is not known here. */
import { readFileSync, readdirSync, statSync } from 'node:fs'
import { extname, join } from 'node:path'
import { parse as parseYaml } from 'yaml'
import { MeshError, messageOf } from '../lib/errors.ts'
import { parseHcl } from '../lib/hcl.ts'
import { isObject } from '../lib/shape.ts'

export type ConfigFormat = 'hcl' | 'json' | 'yaml'

export interface ConfigFile {
  path: string
  value: Record<string, unknown>
}

const formats: Record<string, ConfigFormat> = { '.hcl': 'hcl', '.json': 'json', '.yaml': 'yaml', '.yml': 'yaml' }

/** A file, or those of a directory in alphabetical order; `format` is that of files whose name does not say theirs. */
export function readConfigPath(path: string, format?: ConfigFormat): ConfigFile[] {
  try {
    if (!statSync(path).isDirectory()) return [readConfigFile(path, format)]
    const names = readdirSync(path, { withFileTypes: true }).filter(each => !each.isDirectory() && (format ?? formats[extname(each.name)]))
    return names
      .map(each => each.name)
      .sort()
      .map(name => readConfigFile(join(path, name), format))
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw new MeshError('invalid', `cannot read configuration ${path}: ${messageOf(error)}`, { cause: error })
  }
}

function readConfigFile(path: string, format: ConfigFormat | undefined): ConfigFile {
  return parseConfigFile(readFileSync(path, 'utf8'), path, formats[extname(path)] ?? format ?? 'yaml')
}

export function parseConfigFile(text: string, path: string, format: ConfigFormat): ConfigFile {
  if (text.trim() === '') return { path, value: {} }
  const failed = (why: string, cause?: unknown) => new MeshError('invalid', `failed to parse ${path}: ${why}`, { cause })
  let value: unknown
  if (format === 'hcl' && !text.trimStart().startsWith('{')) {
    const parsed = parseHcl(text)
    if (!parsed.ok) throw failed(parsed.message)
    value = parsed.value
  } else {
    try {
      value = format === 'yaml' ? parseYaml(text) : JSON.parse(text)
    } catch (error) {
      throw failed(messageOf(error), error)
    }
  }
  if (!isObject(value)) throw failed('the top level must be a map of keys')
  return { path, value }
}
