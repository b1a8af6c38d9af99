/** The CA's settings in the form of the API (spec/http-api.md 9). */
import { badRequest } from './errors.ts'
import { parseJson } from './json.ts'

export function encodeCaConfiguration(configuration: unknown): unknown {
  return configuration
}

export function readCaConfiguration(body: Buffer): unknown {
  const parsed = parseJson(body)
  if (!parsed.ok) throw badRequest(`Request decode failed: ${parsed.error}`)
  return parsed.value
}
