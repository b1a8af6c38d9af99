/**
 * One zod schema per thing; this file turns it into the two directions of Consul's JSON. Inside the program names are camelCase;
 * at the edge they are Consul's (`checkId` <-> `CheckID`, alias `check_id`). The name follows from the key, acronyms included,
 * unless `.meta({ wire })` says otherwise.
 *
 * Decoding (spec/http-api.md 1.4) matches keys without regard to case or underscores and collects every problem with its path.
 * Encoding drops an `.optional()` member that is empty, as Go's omitempty does, and always prints one that has a `.default()`.
 */
import * as z from 'zod'
import { formatDuration, parseDuration } from './duration.ts'

const acronyms = new Set([
  'id',
  'http',
  'https',
  'tcp',
  'udp',
  'ttl',
  'grpc',
  'sni',
  'tls',
  'jwt',
  'ca',
  'dns',
  'ip',
  'ns',
  'json',
  'os',
  'jwks',
  'uri',
  'url',
  'sds',
  'h2ping',
])

/** `checkId` -> `CheckID`, `enforcingConsecutive5xx` -> `EnforcingConsecutive5xx`. */
export function wireName(key: string): string {
  return key
    .split(/(?=[A-Z])/)
    .map(word => (acronyms.has(word.toLowerCase()) ? word.toUpperCase() : word[0]!.toUpperCase() + word.slice(1)))
    .join('')
}

/** A duration: Go text or nanoseconds at the edge, ms inside. `print` is how Consul writes this one back. Put it on a key with an `Ms` suffix and name the wire form. */
export function duration(wire: string, print: 'text' | 'nanoseconds' = 'text'): z.ZodNumber {
  return z.number().meta({ wire, duration: print })
}

/** Bytes: base64 at the edge, base64 inside too (a store of JSON keeps them so); checked for being base64. */
export function base64(): z.ZodString {
  return z.string().regex(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/, 'is not base64')
}

export interface DecodeIssue {
  /** Wire-style path of the value, e.g. `Checks[0].Interval`; empty for the top. */
  path: string
  /** What is wrong, lower case. */
  message: string
  /** Set when the issue is a key that the schema does not know. */
  unknownKey?: string
}

export type Decoded<T> = { ok: true; value: T } | { ok: false; issues: DecodeIssue[] }

interface Codec {
  decode(input: unknown, path: string, issues: DecodeIssue[], weak: Weak): unknown
  encode(value: unknown): unknown
}

/** What a decoder takes besides the schema's own form. */
type Weak = 'nothing' | 'blocks' | 'everything'

interface WireMeta {
  wire?: string
  duration?: 'text' | 'nanoseconds'
  /** Further keys that are accepted on input. */
  aliases?: string[]
  /** A struct that is a pointer in Go: printed only when something in it is. */
  sparse?: boolean
}

const codecs = new WeakMap<z.core.$ZodType, Codec>()

/**
 * Reads Consul-style JSON into the schema's own form; all problems at once. `weak` also takes what Consul's config entries take:
 * text for numbers and booleans and the other way round, one value for a list of one, a list of maps for a map. `blocks` takes of
 * these what HCL leaves open alone: one map for a list of maps, and a list of maps for a map.
 */
export function decode<S extends z.ZodType>(
  schema: S,
  input: unknown,
  options: { weak?: boolean; blocks?: boolean } = {},
): Decoded<z.output<S>> {
  const issues: DecodeIssue[] = []
  const candidate = codecOf(schema).decode(input, '', issues, options.weak ? 'everything' : options.blocks ? 'blocks' : 'nothing')
  if (issues.length > 0) return { ok: false, issues }
  const result = schema.safeParse(candidate)
  if (result.success) return { ok: true, value: result.data }
  return { ok: false, issues: result.error.issues.map(issue => ({ path: wirePath(schema, issue.path), message: issue.message })) }
}

/** Writes a value of the schema as Consul-style JSON (a plain object, ready for JSON.stringify). */
export function encode<S extends z.ZodType>(schema: S, value: z.output<S>): unknown {
  return codecOf(schema).encode(value)
}

/** The wire form of a zod issue path: members by their wire names, keys of a map as they are. */
function wirePath(schema: z.core.$ZodType, path: readonly PropertyKey[]): string {
  let text = ''
  let at: z.core.$ZodType | undefined = schema
  for (const part of path) {
    const inner: z.core.$ZodType | undefined = at && unwrapped(at)
    if (inner instanceof z.ZodObject) {
      at = inner.shape[String(part)] as z.core.$ZodType | undefined
      text += `${text === '' ? '' : '.'}${(at && metaOf(at).wire) ?? wireName(String(part))}`
    } else {
      at = inner instanceof z.ZodArray ? inner.def.element : inner instanceof z.ZodRecord ? inner.def.valueType : undefined
      text += typeof part === 'number' ? `[${part}]` : `[${JSON.stringify(String(part))}]`
    }
  }
  return text
}

/** The schema inside optional, nullable, default and their like. */
function unwrapped(schema: z.core.$ZodType): z.core.$ZodType {
  if (isWrapper(schema)) return unwrapped(schema.def.innerType)
  if (schema instanceof z.ZodLazy) return unwrapped(schema.def.getter())
  return schema instanceof z.ZodPipe ? unwrapped(schema.def.in) : schema
}

function isWrapper(schema: z.core.$ZodType): schema is z.ZodOptional | z.ZodNullable | z.ZodDefault | z.ZodPrefault | z.ZodReadonly {
  return (
    schema instanceof z.ZodOptional ||
    schema instanceof z.ZodNullable ||
    schema instanceof z.ZodDefault ||
    schema instanceof z.ZodPrefault ||
    schema instanceof z.ZodReadonly
  )
}

function codecOf(schema: z.core.$ZodType): Codec {
  const known = codecs.get(schema)
  if (known) return known
  // Registered before it is built, so that a schema may contain itself.
  const codec: Codec = { decode: (...args) => built.decode(...args), encode: value => built.encode(value) }
  codecs.set(schema, codec)
  const built = buildCodec(schema)
  return codec
}

function buildCodec(schema: z.core.$ZodType): Codec {
  const meta = metaOf(schema)
  if (meta.duration) return durationCodec(meta.duration)
  if (schema instanceof z.ZodObject) return objectCodec(schema)
  if (schema instanceof z.ZodArray) return arrayCodec(schema.def.element)
  if (schema instanceof z.ZodRecord) return recordCodec(schema.def.valueType)
  if (schema instanceof z.ZodLazy) return codecOf(schema.def.getter())
  if (isWrapper(schema)) return emptyable(codecOf(schema.def.innerType), schema)
  if (schema instanceof z.ZodPipe) return codecOf(schema.def.in)
  if (schema instanceof z.ZodString) return leaf(weakString)
  if (schema instanceof z.ZodNumber) return leaf(weakNumber)
  if (schema instanceof z.ZodBoolean) return leaf(weakBoolean)
  return leaf(input => input)
}

function leaf(loosen: (input: unknown) => unknown): Codec {
  return { decode: (input, _path, _issues, weak) => (weak === 'everything' ? loosen(input) : input), encode: value => value }
}

function weakString(input: unknown): unknown {
  if (typeof input === 'boolean') return input ? '1' : '0'
  return typeof input === 'number' ? String(input) : input
}

function weakNumber(input: unknown): unknown {
  if (typeof input === 'boolean') return input ? 1 : 0
  if (typeof input !== 'string') return input
  if (input === '') return 0
  return /^[+-]?\d+(?:\.\d+)?$/.test(input) ? Number(input) : input
}

function weakBoolean(input: unknown): unknown {
  if (typeof input === 'number') return input !== 0
  if (typeof input !== 'string') return input
  if (['1', 't', 'T', 'TRUE', 'true', 'True'].includes(input)) return true
  return ['', '0', 'f', 'F', 'FALSE', 'false', 'False'].includes(input) ? false : input
}

function weakList(input: unknown, weak: Weak): unknown {
  if (weak === 'blocks') return isObject(input) ? [input] : input
  if (weak === 'nothing' || Array.isArray(input)) return input
  return input === '' ? [] : [input]
}

/** HCL writes a block as a list of maps. */
function weakObject(input: unknown, weak: Weak): unknown {
  return weak !== 'nothing' && Array.isArray(input) && input.every(isObject) ? Object.assign({}, ...input) : input
}

/** Consul takes a JSON null for "not given" everywhere. */
function emptyable(inner: Codec, schema: z.core.$ZodType): Codec {
  const nullable = schema instanceof z.ZodNullable
  return {
    decode: (input, path, issues, weak) =>
      input === null ? (nullable ? null : undefined) : input === undefined ? undefined : inner.decode(input, path, issues, weak),
    encode: value => (value === undefined || value === null ? value : inner.encode(value)),
  }
}

function durationCodec(print: 'text' | 'nanoseconds'): Codec {
  return {
    decode(input, path, issues) {
      if (typeof input === 'number') return input / 1e6
      if (input === '' || input === null) return undefined
      const ms = typeof input === 'string' ? parseDuration(input) : undefined
      if (ms === undefined) issues.push({ path, message: `time: invalid duration ${JSON.stringify(input)}` })
      return ms
    },
    encode: value => (print === 'text' ? formatDuration(value as number) : Math.round((value as number) * 1e6)),
  }
}

function arrayCodec(element: z.core.$ZodType): Codec {
  const inner = codecOf(element)
  return {
    decode(input, path, issues, weak) {
      const list = weakList(input, weak)
      return Array.isArray(list) ? list.map((each, i) => inner.decode(each, `${path}[${i}]`, issues, weak)) : list
    },
    encode: value => (value as unknown[]).map(each => inner.encode(each)),
  }
}

function recordCodec(valueType: z.core.$ZodType): Codec {
  const inner = codecOf(valueType)
  const each = (value: unknown, map: (one: unknown, key: string) => unknown) =>
    Object.fromEntries(Object.entries(value as object).map(([key, one]) => [key, map(one, key)]))
  return {
    decode(given, path, issues, weak) {
      const input = weakObject(given, weak)
      return isObject(input) ? each(input, (one, key) => inner.decode(one, `${path}[${JSON.stringify(key)}]`, issues, weak)) : input
    },
    encode: value => each(value, one => inner.encode(one)),
  }
}

function objectCodec(schema: z.ZodObject): Codec {
  const members = Object.entries(schema.shape).map(([key, type]) => {
    const meta = metaOf(type)
    return {
      key,
      wire: meta.wire ?? wireName(key),
      aliases: meta.aliases ?? [],
      sparse: meta.sparse ?? false,
      optional: isOptional(type),
      map: isRecord(type),
      codec: codecOf(type),
    }
  })
  const byName = new Map<string, (typeof members)[number]>()
  for (const member of members) for (const name of [member.wire, ...member.aliases]) byName.set(fold(name), member)
  const loose = schema.def.catchall instanceof z.ZodUnknown
  return {
    decode(given, path, issues, weak) {
      const input = weakObject(given, weak)
      if (!isObject(input)) return input
      const out: Record<string, unknown> = {}
      for (const [name, value] of Object.entries(input)) {
        const member = byName.get(fold(name))
        const at = path === '' ? (member?.wire ?? name) : `${path}.${member?.wire ?? name}`
        if (member) out[member.key] = member.codec.decode(value, at, issues, weak)
        else if (!loose) issues.push({ path: at, message: `unknown key ${JSON.stringify(name)}`, unknownKey: name })
      }
      return out
    },
    encode(value) {
      const out: Record<string, unknown> = {}
      const source = value as Record<string, unknown>
      for (const member of members) {
        const one = source[member.key]
        if (one === undefined || (member.optional && isEmpty(one, member.map))) continue
        const wire = member.codec.encode(one)
        if (!member.sparse || !isObject(wire) || Object.keys(wire).length > 0) out[member.wire] = wire
      }
      return out
    },
  }
}

function fold(name: string): string {
  return name.toLowerCase().replaceAll('_', '')
}

/** A map of JSON: no list, no null. */
export function isObject(input: unknown): input is Record<string, unknown> {
  return typeof input === 'object' && input !== null && !Array.isArray(input)
}

function isOptional(schema: z.core.$ZodType): boolean {
  if (schema instanceof z.ZodOptional) return true
  return schema instanceof z.ZodNullable || schema instanceof z.ZodReadonly ? isOptional(schema.def.innerType) : false
}

function isRecord(schema: z.core.$ZodType): boolean {
  if (schema instanceof z.ZodRecord) return true
  return schema instanceof z.ZodOptional || schema instanceof z.ZodNullable ? isRecord(schema.def.innerType) : false
}

/** Go's zero value: an empty map is dropped, an empty struct is printed. */
function isEmpty(value: unknown, map: boolean): boolean {
  if (map && isObject(value)) return Object.keys(value).length === 0
  return value === '' || value === 0 || value === false || value === null || (Array.isArray(value) && value.length === 0)
}

function metaOf(schema: z.core.$ZodType): WireMeta {
  const own = z.globalRegistry.get(schema) as WireMeta | undefined
  if (own) return own
  return isWrapper(schema) ? metaOf(schema.def.innerType) : {}
}
