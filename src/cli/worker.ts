/**
 * One of the processes of a proxy with --workers. It is a proxy without an admin door that asks its supervisor for every listening
 * socket, hands over those it had to bind itself, says what it has open, and ends when it is told to or when the supervisor is gone.
 */
import type { Server } from 'node:net'
import { handleOf, type OpenSocket, type SocketSource } from '../proxy/listening-sockets.ts'
import type { RunningProxy } from '../proxy/running-proxy.ts'

/** What an admin door may ask of a worker. */
export type Question = 'metrics' | 'notReady' | 'plan' | 'certs'

/** From a worker. `bound` comes with the handle. */
export type FromWorker =
  | { claim: string }
  | { bound: string }
  | { failed: string }
  | { open: readonly OpenSocket[] }
  | { ready: true }
  | { answers: number; value: unknown }
/** To a worker. `granted` comes with a handle, or without one when the worker is to bind. */
export type ToWorker = { granted: string } | { question: Question; id: number } | { end: 'drain' | 'handOver' }

export async function runWorker(
  start: (sockets: SocketSource) => Promise<RunningProxy>,
  drainMs: number,
  handOverMs: number,
): Promise<void> {
  const sockets = new SupervisedSockets()
  let proxy: RunningProxy | undefined
  // A terminal sends it to the supervisor too, which decides; and a supervisor is restarted whole.
  for (const signal of ['SIGINT', 'SIGUSR2'] as const) process.on(signal, () => undefined)
  const leave = new Promise<() => Promise<void> | undefined>(resolve => {
    const drain = () => resolve(() => proxy?.drain(drainMs))
    process.on('SIGTERM', drain)
    // Whoever supervises next must find the ports free.
    process.on('disconnect', () => resolve(() => proxy?.handOver(drainMs)))
    process.on('message', (message: ToWorker, handle: unknown) => {
      if ('granted' in message) sockets.granted(message.granted, handle)
      else if ('question' in message) void answer(proxy, message)
      else if (message.end === 'drain') drain()
      else resolve(() => proxy?.handOver(handOverMs))
    })
  })
  proxy = await start(sockets)
  proxy.ready().then(
    () => tell({ ready: true }),
    // It was ended before it was ready.
    () => undefined,
  )
  await (
    await leave
  )()
  await proxy.close()
  // The channel to the supervisor would keep it.
  process.exit(0)
}

async function answer(proxy: RunningProxy | undefined, { question, id }: { question: Question; id: number }): Promise<void> {
  const starting = question === 'notReady' ? ['starting'] : undefined
  tell({ answers: id, value: proxy ? await proxy.status[question]() : starting })
}

class SupervisedSockets implements SocketSource {
  readonly shared = true
  readonly succeeds = false
  readonly #waiting = new Map<string, ((handle: unknown) => void)[]>()

  claim(name: string): Promise<unknown> {
    return new Promise(resolve => {
      this.#waiting.set(name, [...(this.#waiting.get(name) ?? []), resolve])
      tell({ claim: name })
    })
  }

  granted(name: string, handle: unknown): void {
    const [first, ...others] = this.#waiting.get(name) ?? []
    if (others.length > 0) this.#waiting.set(name, others)
    else this.#waiting.delete(name)
    first?.(handle)
  }

  bound(name: string, server: Server): void {
    tell({ bound: name }, handleOf(server))
  }

  failed(name: string): void {
    tell({ failed: name })
  }

  changed(open: readonly OpenSocket[]): void {
    tell({ open })
  }

  settled(): void {
    // The supervisor sees what nobody has open.
  }
}

function tell(message: FromWorker, handle?: unknown): void {
  // Without a supervisor there is nobody to tell, and this process is ending.
  if (process.connected) process.send!(message, handle as Server | undefined, {}, () => undefined)
}
