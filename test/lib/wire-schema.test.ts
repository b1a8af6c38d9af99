/** The JSON Schema of a wire form says what `decode` takes. */
import t from 'tap'
import * as z from 'zod'
import { duration } from '../../src/lib/shape.ts'
import { wireSchema } from '../../src/lib/wire-schema.ts'

t.test('members have their wire names, durations are text or nanoseconds, and unknown members are refused', async t => {
  const schema = z.object({
    checkId: z.string(),
    ttlMs: duration('TTL').optional(),
    port: z.number().int().min(0).max(65_535).default(0),
    kind: z.enum(['a', 'b']).nullable().optional(),
    tags: z.array(z.string()).default([]),
    meta: z.record(z.string(), z.boolean()).optional(),
    rest: z.looseObject({}).optional(),
  })
  t.strictSame(wireSchema(schema), {
    type: 'object',
    properties: {
      CheckID: { type: 'string' },
      TTL: { oneOf: [{ type: 'string', examples: ['10s', '1h30m'] }, { type: 'integer' }] },
      Port: { type: 'integer', minimum: 0, maximum: 65_535 },
      Kind: { anyOf: [{ type: 'string', enum: ['a', 'b'] }, { type: 'null' }] },
      Tags: { type: 'array', items: { type: 'string' } },
      Meta: { type: 'object', additionalProperties: { type: 'boolean' } },
      Rest: { type: 'object', properties: {} },
    },
    required: ['CheckID'],
    additionalProperties: false,
  })
})

t.test('a schema that contains itself ends', async t => {
  interface Tree {
    inner?: Tree | undefined
  }
  const tree: z.ZodType<Tree> = z.object({ inner: z.lazy(() => tree).optional() })
  t.ok(JSON.stringify(wireSchema(tree)).length < 10_000)
})
