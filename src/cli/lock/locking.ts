/** What `isthmus lock` needs of a lock and of a semaphore alike, and how both read and wait. */
import { setTimeout as delay } from 'node:timers/promises'
import type { AgentClient } from '../client.ts'
import { CliError } from '../context.ts'
import { keyPath, longFlags, type KvView } from '../kv-api.ts'

export interface Locking {
  readonly path: string
  /** How a person is told of it. */
  readonly what: string
  /** False when `signal` was aborted before it was ours. */
  acquire(signal: AbortSignal): Promise<boolean>
  /** Resolves when it is no longer ours. */
  lost(signal: AbortSignal, retries: number): Promise<void>
  release(): Promise<void>
  /** Deletes its keys; false when somebody uses them. */
  cleanUp(): Promise<boolean>
}

export interface Found {
  views: KvView[]
  index: string
}

/** One wait of a blocking query. */
const wait = '15s'
/** A lock that is free but inside somebody's lock-delay. */
export const lockDelayRetryMs = 5000
const monitorRetryMs = 1000

export async function read(
  client: AgentClient,
  key: string,
  query: Record<string, string | undefined>,
  signal?: AbortSignal,
): Promise<Found> {
  const answer = await client.call('GET', keyPath(key), { query: { wait, ...query }, signal }, [404])
  const views = answer.status === 404 ? [] : (client.parse(longFlags(answer.body)) as KvView[])
  return { views, index: String(answer.headers['x-consul-index'] ?? '') }
}

/** Undefined when `signal` was aborted meanwhile: that is no error of the agent. */
export async function unlessAborted<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T | undefined> {
  try {
    return signal.aborted ? undefined : await work()
  } catch (error) {
    if (signal.aborted) return undefined
    throw error
  }
}

/** Reads again and again while what is read says that it is ours; an agent that does not answer is asked again `retries` times. */
export async function whileOurs(
  look: (index: string | undefined) => Promise<{ ours: boolean; index: string }>,
  signal: AbortSignal,
  retries: number,
): Promise<void> {
  let index: string | undefined
  let failures = 0
  while (!signal.aborted) {
    try {
      const found = await look(index)
      if (!found.ours) return
      index = found.index
      failures = 0
    } catch (error) {
      failures += 1
      if (signal.aborted || !(error instanceof CliError) || failures > retries) return
      await unlessAborted(signal, () => delay(monitorRetryMs, undefined, { signal }))
    }
  }
}
