/** The one place that turns an error into a status and a body (spec/http-api.md 1.3). Bodies are bare text; nothing internal is told. */
import { type ErrorCode, MeshError } from '../../lib/errors.ts'

/** Most semantic failures are 500 in Consul, and its clients match the body: do not "fix" them to 400. */
export const statuses: Readonly<Record<ErrorCode, number>> = {
  'bad-request': 400,
  invalid: 500,
  'not-found': 404,
  'permission-denied': 403,
  unauthorized: 401,
  conflict: 409,
  'too-large': 413,
  unavailable: 503,
  unsupported: 500,
  internal: 500,
}

export interface ErrorReply {
  status: number
  body: string
  /** False for a failure nobody foresaw: the caller logs it whole, the client is told nothing of it. */
  expected: boolean
}

export function errorReply(error: unknown): ErrorReply {
  if (error instanceof MeshError) return { status: statuses[error.code], body: error.message, expected: true }
  return { status: 500, body: 'internal error; the log of this agent says what happened', expected: false }
}

export function badRequest(message: string): MeshError {
  return new MeshError('bad-request', message)
}
