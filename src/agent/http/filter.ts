/** `?filter=` of a request: drops what it does not select (spec/http-api.md 1.9). */
import type * as z from 'zod'
import { compileFilter } from '../../mesh/filter.ts'
import type { Query } from './request.ts'

/** The list as it is when the request has no filter. */
export function applyFilter<S extends z.ZodType>(query: Query, schema: S, values: z.output<S>[]): z.output<S>[] {
  const text = query.get('filter')
  return text === '' ? values : values.filter(compileFilter(text, schema))
}
