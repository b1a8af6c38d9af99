/**
 * Errors as values with a code. Whoever raises one says what is wrong and what the operator does next; each door (HTTP, gRPC,
 * DNS, CLI) has one function that turns a code into its reply. Nothing else in the program decides on a status.
 */

/** Every code an expected failure can carry. `bad-request` is a malformed call; `invalid` is a well-formed call that means nothing sensible. */
export type ErrorCode =
  | 'bad-request'
  | 'invalid'
  | 'not-found'
  | 'permission-denied'
  | 'unauthorized'
  | 'conflict'
  | 'too-large'
  | 'unavailable'
  | 'unsupported'
  | 'internal'

/** An expected failure. `message` names the thing and ends with the next step; it never holds a secret. */
export class MeshError extends Error {
  override readonly name = 'MeshError'
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** The message of anything that was thrown, for logs and for the texts that quote a cause. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Several problems as one text, in the form that Consul's clients know (spec/http-api.md 1.1). */
export function multiError(problems: readonly string[]): string {
  const count = problems.length === 1 ? '1 error' : `${problems.length} errors`
  return `${count} occurred:\n${problems.map(problem => `\t* ${problem}\n`).join('')}\n`
}
