/**
 * `isthmus lock`: runs a program while a lock, or one of several places, is held. The program is ended when the lock is lost or this
 * process is asked to end, and the lock is given back only after the program's end.
 */
import type { Command } from 'commander'
import { messageOf } from '../../lib/errors.ts'
import { Child } from '../child.ts'
import type { AgentClient } from '../client.ts'
import { agentCommand, doing, durationMs, say, wholeNumber } from '../command.ts'
import { CliError, type CliContext } from '../context.ts'
import { interruption } from '../running.ts'
import type { Locking } from './locking.ts'
import { Mutex } from './mutex.ts'
import { Semaphore } from './semaphore.ts'
import { LockSession } from './session.ts'

interface Flags {
  childExitCode?: boolean
  monitorRetry: number
  n: number
  name?: string
  passStdin?: boolean
  shell: boolean
  timeout?: number
  try?: number
  verbose?: boolean
}

export function registerLock(program: Command, context: CliContext): void {
  agentCommand<Flags>(program, 'lock', 'Run a program while a lock is held', context, async call => {
    const [prefix, ...child] = call.args
    if (!prefix || child.length === 0) throw new CliError('Key prefix and child command must be specified')
    if (call.flags.n < 1) throw new CliError('Lock holder limit must be positive')
    await run(call.client, prefix.replace(/^\/+|\/+$/g, ''), child, call.flags, context)
  })
    .argument('[prefix]', 'where the keys of the lock are')
    .argument('[child...]', 'the program and its arguments')
    .option('--child-exit-code', 'exit code 2 when the program fails')
    .option(
      '--monitor-retry <number>',
      'how often an agent that does not answer is asked again before the lock counts as lost',
      wholeNumber,
      3,
    )
    .option('--n <number>', 'how many may hold it at a time', wholeNumber, 1)
    .option('--name <name>', 'name of the session')
    .option('--pass-stdin', 'let the program read standard input')
    .option('--shell', 'run it with the shell (the default)', true)
    .option('--no-shell', 'run it without one')
    .option('--timeout <duration>', 'give up when the lock is not held by then', durationMs)
    .option('--try <duration>', 'the same, as it was once called', durationMs)
    .option('--verbose', 'say what is done')
}

async function run(client: AgentClient, prefix: string, args: string[], flags: Flags, context: CliContext): Promise<void> {
  const tell = (text: string) => flags.verbose && say(context, text)
  const name = flags.name ?? `Consul lock for '${args.join(' ')}' at '${prefix}'`
  const interrupt = interruption()
  // Of one that contended for a place nothing is to stay; a lock's key is others' too.
  const behavior = flags.n === 1 ? 'release' : 'delete'
  const session = await doing('creating session', LockSession.open(client, name, behavior))
  try {
    const lock = flags.n === 1 ? new Mutex(client, prefix, session.id) : new Semaphore(client, prefix, session.id, flags.n)
    tell(`Setting up ${lock.what}`)
    tell('Attempting lock acquisition')
    const timeoutMs = flags.timeout ?? flags.try ?? 0
    const signals = timeoutMs > 0 ? [interrupt.signal, AbortSignal.timeout(timeoutMs)] : [interrupt.signal]
    const acquired = await lock.acquire(AbortSignal.any(signals)).catch((error: unknown) => {
      throw new CliError(`Lock acquisition failed: ${messageOf(error)}`, 1, { cause: error })
    })
    if (!acquired) throw new CliError('Shutdown triggered or timeout during lock acquisition')
    const end = await guarded(lock, session, args, flags, { interrupt: interrupt.signal, tell, context })
    // What is not ours is not given back.
    if (end === 'lost') throw new CliError('')
    await giveBack(lock, tell)
    if (end === 'failed' && flags.childExitCode) throw new CliError('', 2)
  } finally {
    interrupt.close()
    await session.close().catch(() => undefined)
  }
}

/** Of the program: by itself, because the lock is gone, or because somebody asked for it. */
type End = 'well' | 'failed' | 'lost' | 'asked'

interface Surroundings {
  interrupt: AbortSignal
  tell: (text: string) => unknown
  context: CliContext
}

/** Runs the program until it ends, the lock is lost or an end is asked for. */
async function guarded(
  lock: Locking,
  session: LockSession,
  args: string[],
  flags: Flags,
  { interrupt, tell, context }: Surroundings,
): Promise<End> {
  const watching = new AbortController()
  tell('Starting handler')
  const env = { CONSUL_LOCK_HELD: 'true' }
  const child = new Child(args, { shell: flags.shell, env, stdin: flags.passStdin ? 'inherit' : 'ignore' }, context)
  const lost = Promise.race([lock.lost(watching.signal, flags.monitorRetry), session.ended]).then((): End => 'lost')
  const asked = new Promise<End>(resolve => {
    const end = () => resolve('asked')
    if (interrupt.aborted) end()
    interrupt.addEventListener('abort', end, { once: true })
  })
  const end = await Promise.race([child.ended.then((problem): End => (problem === undefined ? 'well' : 'failed')), lost, asked])
  watching.abort()
  if (end === 'failed') context.stderr.write(`Error running handler: ${await child.ended}\n`)
  if (end === 'lost' || end === 'asked') {
    context.stderr.write(`${end === 'lost' ? 'Lock lost' : 'Shutdown triggered'}, killing child\n`)
    await child.stop()
  }
  if (end !== 'lost') tell('Child terminated, releasing lock')
  return end
}

async function giveBack(lock: Locking, tell: (text: string) => unknown): Promise<void> {
  try {
    await lock.release()
  } catch (error) {
    throw new CliError(`Lock release failed: ${messageOf(error)}`, 1, { cause: error })
  }
  const clean = await lock.cleanUp().catch((error: unknown) => {
    throw new CliError(`Cleanup failed: ${messageOf(error)}`, 1, { cause: error })
  })
  tell(clean ? 'Cleanup succeeded' : 'Cleanup aborted, lock in use')
}
