/**
 * The seam between the HTTP/2 code and whoever judges and routes requests (inbound, outbound). A door belongs to one downstream
 * connection; its requests overlap, so each has an object of its own. What a refusal, a failed connect and an outcome are is the
 * same as in HTTP/1.1.
 */
import type { EditableHead } from '../../mesh/header-edit.ts'
import type { Endpoint } from '../../mesh/snapshot.ts'
import type { Outcome, Refused } from '../http1/door.ts'
import type { Channels } from './channels.ts'
import type { RequestFields } from './fields.ts'

export interface Http2Door {
  /** Where requests that were not refused go. */
  readonly channels: Channels
  /** Whoever asks is one of us: where no app was reached, that is said with the answer (http1/unreached.ts). */
  readonly tellUnreached?: boolean
  /** Judges one request against the plan of this moment; synchronous. Edit `fields` in place (`remove`, `append`). */
  open(fields: RequestFields): DoorRequest
  /** The connection was ended because of what the client did with it. */
  flooded?(): void
  /** `open` or `stillAllowed` threw: a mistake of ours. The request was answered 500. */
  threw(error: unknown): void
}

export interface DoorRequest {
  /** Why it goes nowhere, if it does not. */
  readonly refused: Refused | undefined
  /**
   * Instead of `limits.requestTimeoutMs`; 0 is no limit. As Envoy's route timeout it holds for the whole response, a stream's too, once the
   * request has ended; a `grpc-timeout` is between the caller and the app, and passes.
   */
  readonly timeoutMs: number | undefined
  /** Instead of the door's own. */
  readonly channels?: Channels
  /** Where it may go instead when nothing there could be reached; nothing was sent. */
  elsewhere?(): Channels | undefined
  /** One of us could not reach its app there. Answers where it may go instead, if it can go `again`. `news`: as in Retry. */
  unreached?(endpoint: Endpoint, again: boolean, news: boolean): Channels | undefined
  /** The final response head before it is forwarded. */
  responding?(head: EditableHead): void
  /** Asked again when the plan changed. */
  stillAllowed(): boolean
  /** When that is to be asked again, because something that it was allowed by ends (wall clock). */
  allowedUntilMs?(): number
  /** Once. `outcome` is not used any more by the caller; `endpoint` is where it was answered. */
  finished(outcome: Outcome, endpoint?: Endpoint): void
}
