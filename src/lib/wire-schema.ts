/**
 * The JSON Schema of what a zod schema looks like at the edge: members by their wire names, durations as text or nanoseconds. It says
 * what `shape.decode` takes, so that a document made of it cannot tell of anything else.
 */
import * as z from 'zod'
import { wireName } from './shape.ts'

export type JsonSchema = { [key: string]: unknown }

/** Recursive schemas end here, as anything. */
const maxDepth = 12

export function wireSchema(schema: z.core.$ZodType, depth = 0): JsonSchema {
  if (depth > maxDepth) return {}
  const meta = metaOf(schema)
  if (meta.duration) return { oneOf: [{ type: 'string', examples: ['10s', '1h30m'] }, { type: 'integer' }] }
  const inner = (type: z.core.$ZodType) => wireSchema(type, depth + 1)
  if (schema instanceof z.ZodNullable) return { anyOf: [wireSchema(schema.def.innerType, depth), { type: 'null' }] }
  if (isWrapper(schema)) return wireSchema(schema.def.innerType, depth)
  if (schema instanceof z.ZodLazy) return inner(schema.def.getter())
  if (schema instanceof z.ZodPipe) return wireSchema(schema.def.in, depth)
  if (schema instanceof z.ZodObject) return objectSchema(schema, inner)
  if (schema instanceof z.ZodArray) return { type: 'array', items: inner(schema.def.element) }
  if (schema instanceof z.ZodRecord) return { type: 'object', additionalProperties: inner(schema.def.valueType) }
  if (schema instanceof z.ZodEnum) return { type: 'string', enum: schema.options }
  if (schema instanceof z.ZodLiteral) return { enum: [...schema.values] }
  if (schema instanceof z.ZodString) return { type: 'string' }
  if (schema instanceof z.ZodNumber) return numberSchema(schema)
  return schema instanceof z.ZodBoolean ? { type: 'boolean' } : {}
}

function objectSchema(schema: z.ZodObject, inner: (type: z.core.$ZodType) => JsonSchema): JsonSchema {
  const members = Object.entries(schema.shape)
  const required = members.filter(([, type]) => !isOptional(type)).map(([key, type]) => metaOf(type).wire ?? wireName(key))
  const loose = schema.def.catchall instanceof z.ZodUnknown
  return {
    type: 'object',
    properties: Object.fromEntries(members.map(([key, type]) => [metaOf(type).wire ?? wireName(key), inner(type)])),
    ...(required.length > 0 ? { required } : {}),
    ...(loose ? {} : { additionalProperties: false }),
  }
}

function numberSchema(schema: z.ZodNumber): JsonSchema {
  const { minValue, maxValue, isInt } = schema
  const bound = (value: number | null) => value !== null && Number.isFinite(value) && Math.abs(value) < Number.MAX_SAFE_INTEGER
  return {
    type: isInt ? 'integer' : 'number',
    ...(bound(minValue) ? { minimum: minValue } : {}),
    ...(bound(maxValue) ? { maximum: maxValue } : {}),
  }
}

function isWrapper(schema: z.core.$ZodType): schema is z.ZodOptional | z.ZodDefault | z.ZodPrefault | z.ZodReadonly {
  return (
    schema instanceof z.ZodOptional || schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault || schema instanceof z.ZodReadonly
  )
}

function isOptional(schema: z.core.$ZodType): boolean {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault) return true
  return schema instanceof z.ZodNullable || schema instanceof z.ZodReadonly ? isOptional(schema.def.innerType) : false
}

function metaOf(schema: z.core.$ZodType): { wire?: string; duration?: string } {
  const own = z.globalRegistry.get(schema) as { wire?: string; duration?: string } | undefined
  if (own) return own
  return isWrapper(schema) || schema instanceof z.ZodNullable ? metaOf(schema.def.innerType) : {}
}
