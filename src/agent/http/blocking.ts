/**
 * Blocking queries (spec/http-api.md 1.8): a read that waits until what it reads has changed after the index the client knows.
 * The read names its topics, so unrelated writes do not wake it; at the end of the wait the current result is answered.
 */
import { parseDuration } from '../../lib/duration.ts'
import type { Reading } from '../catalog/tables.ts'
import { badRequest } from './errors.ts'
import { httpLimits } from './limits.ts'
import type { Query } from './request.ts'
import type { Call } from './route.ts'

export interface WaitParams {
  /** 0: do not wait. */
  index: number
  waitMs: number
}

export function waitParams(query: Query): WaitParams {
  const wait = query.get('wait')
  const ms = wait === '' ? 0 : parseDuration(wait)
  if (ms === undefined) throw badRequest('Invalid wait time')
  const index = query.get('index')
  if (index !== '' && !/^\d{1,20}$/.test(index)) throw badRequest('Invalid index')
  return { index: Number(index), waitMs: boundedWait(ms) }
}

function boundedWait(ms: number): number {
  return ms <= 0 ? httpLimits.defaultWaitMs : Math.min(ms, httpLimits.maxWaitMs)
}

export interface BlockOptions {
  /** Consul spreads wake-ups by up to a sixteenth of the wait; its streaming backend does not. */
  jitter?: boolean
}

/** Reads; when the client knows this index already, waits for the next one. */
export async function blockingRead<T>(call: Call, read: () => Reading<T>, options: BlockOptions = {}): Promise<Reading<T>> {
  const { index, waitMs } = waitParams(call.query)
  return blockUntil(call, read, reading => index === 0 || reading.index > index, waitMs, options)
}

/** Reads again at every change of the reading's topics until `done`, or until the time is over. */
export async function blockUntil<T>(
  call: Call,
  read: () => Reading<T>,
  done: (reading: Reading<T>) => boolean,
  waitMs: number,
  options: BlockOptions = {},
): Promise<Reading<T>> {
  const { tables } = call.agent
  let reading = read()
  const deadline = performance.now() + waitMs + (options.jitter === false ? 0 : (Math.random() * waitMs) / 16)
  while (!done(reading) && !call.signal.aborted) {
    // What was read is as of this revision: only a later change is worth another look, whatever index the client or the reading names.
    const left = deadline - performance.now()
    if (left <= 0 || !(await tables.waitFor(reading.topics, tables.revision, left, call.signal))) return read()
    reading = read()
  }
  return reading
}

/** `?hash=&wait=` of GET /v1/agent/service/:id. */
export function hashParams(query: Query): { hash: string; waitMs: number } {
  const wait = query.get('wait')
  const ms = wait === '' ? 0 : parseDuration(wait)
  if (ms === undefined) throw badRequest('Invalid wait time')
  return { hash: query.get('hash'), waitMs: boundedWait(ms) }
}
