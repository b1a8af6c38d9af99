/**
 * This program once more, as a process of its own that is given listening sockets: a successor that takes this process's place, or a
 * worker. The role is told in the environment and believed only over the channel to the parent that goes with it. Until a successor
 * says that it serves, nothing of this process changes; one that fails or takes too long is ended, and nothing was lost.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import type { Logger } from '../lib/log.ts'
import { environmentFor } from '../proxy/inherited.ts'

export type Role = 'first' | 'successor' | 'worker' | 'orphan'

export const successorLimits = {
  readyMs: 30_000,
  /** From asking one that failed to end, to ending it. */
  endMs: 5000,
} as const

const roleVariable = 'ISTHMUS_PROCESS'

/**
 * What this process was started as, taken out of the environment. A worker whose supervisor ended while it started has nobody to work
 * for: as the first of a line it would supervise workers of its own, beside whoever takes the supervisor's place.
 */
export function takeRole(env: Record<string, string | undefined>, hasParent: boolean): Role {
  const role = env[roleVariable]
  delete env[roleVariable]
  if (role === 'worker') return hasParent ? role : 'orphan'
  return hasParent && role === 'successor' ? role : 'first'
}

/** The same command line, by the program that is on the disk now. */
export function spawnAgain(role: 'successor' | 'worker', sockets: ReadonlyMap<string, number>): ChildProcess {
  const env = { ...process.env, ...environmentFor([...sockets.keys()]), [roleVariable]: role }
  return spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    env,
    stdio: ['inherit', 'inherit', 'inherit', ...sockets.values(), 'ipc'],
  })
}

export interface Successor {
  /** True once it serves; false when it never will. */
  ready: Promise<boolean>
  /** Ends it, unless it serves already. */
  cancel(): void
}

export function startSuccessor(sockets: ReadonlyMap<string, number>, logger: Logger, readyMs: number = successorLimits.readyMs): Successor {
  const beganMs = performance.now()
  const child = spawnAgain('successor', sockets)
  let settle: (problem: string) => void = () => {}
  const ready = new Promise<boolean>(resolve => {
    let over = false
    const timer = setTimeout(() => settle(`it was not ready within ${readyMs} ms`), readyMs)
    settle = problem => {
      if (over) return
      over = true
      clearTimeout(timer)
      const fields = { pid: child.pid, afterMs: Math.round(performance.now() - beganMs) }
      if (problem === '') logger.info(fields, 'the successor serves; this process ends when nothing is open')
      else {
        logger.error({ ...fields, problem }, 'the successor failed; this process goes on')
        end(child)
      }
      if (child.connected) child.disconnect()
      child.unref()
      resolve(problem === '')
    }
    child.on('message', message => {
      if (isReady(message)) settle('')
    })
    child.on('error', error => settle(error.message))
    child.on('exit', (code, signal) => settle(`it ended with ${signal ?? `exit code ${code}`}`))
  })
  return { ready, cancel: () => settle('it was no longer wanted') }
}

/** Tells the parent of a successor that it may go. */
export function sayReady(): void {
  if (!process.connected) return
  process.send!({ ready: true }, () => {
    if (process.connected) process.disconnect()
  })
}

function isReady(message: unknown): boolean {
  return typeof message === 'object' && message !== null && 'ready' in message
}

function end(child: ChildProcess): void {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGTERM')
  const force = setTimeout(() => child.kill('SIGKILL'), successorLimits.endMs)
  child.once('exit', () => clearTimeout(force))
}
