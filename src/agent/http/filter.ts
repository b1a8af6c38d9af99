/** `?filter=` of a list (spec/http-api.md 1.9): a filter that means nothing for what the list holds is an error, also where it is empty. */
import type * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { compileFilter as compile } from '../../mesh/filter/filter.ts'
import type { Query } from './request.ts'

/** Drops what `?filter=` of the request does not select; the list as it is when there is none. */
export function applyFilter<S extends z.ZodType>(query: Query, schema: S, values: z.output<S>[]): z.output<S>[] {
  const text = query.get('filter')
  return text === '' ? values : values.filter(compileFilter(text, schema))
}

/** A predicate over values of `schema`. Throws Consul's text for a filter that means nothing here. */
export function compileFilter(text: string, schema: z.ZodType): (value: unknown) => boolean {
  const compiled = compile(text, schema)
  if (!compiled.ok) throw new MeshError('invalid', `Failed to create boolean expression evaluator: ${compiled.problem}`)
  return compiled.test
}
