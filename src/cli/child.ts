/**
 * A program that a command runs: through the shell unless told otherwise. It has this process's own output; when it is to end it gets
 * SIGTERM, and is killed when that does not help in time.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import type { CliContext } from './context.ts'

export interface ChildOptions {
  /** Without: the first argument is a program, the others are its own. */
  shell: boolean
  /** Over this process's environment. */
  env: Record<string, string>
  /** What it reads: nothing, what this process reads, or this text. */
  stdin: 'ignore' | 'inherit' | { text: string }
}

const graceMs = 5000

export class Child {
  readonly #process: ChildProcess
  /** Undefined when it ended well, else Go's words for how it did not. */
  readonly ended: Promise<string | undefined>

  constructor(args: readonly string[], { shell, env, stdin }: ChildOptions, context: CliContext) {
    const [program, ...rest] = shell ? inShell(args.join(' '), context) : (args as [string, ...string[]])
    const child = spawn(program, rest, {
      env: { ...context.env, ...env },
      stdio: [typeof stdin === 'string' ? stdin : 'pipe', 'inherit', 'inherit'],
    })
    this.#process = child
    this.ended = new Promise(resolve => {
      child.once('error', error => resolve(notStarted(program, error)))
      child.once('exit', (code, signal) => resolve(signal !== null ? `signal: ${signal}` : code === 0 ? undefined : `exit status ${code}`))
    })
    if (typeof stdin === 'string') return
    // A program need not read what it is given.
    child.stdin!.on('error', () => undefined)
    child.stdin!.end(stdin.text)
  }

  async stop(): Promise<void> {
    this.#process.kill('SIGTERM')
    const force = setTimeout(() => this.#process.kill('SIGKILL'), graceMs)
    await this.ended
    clearTimeout(force)
  }
}

function inShell(script: string, { env }: CliContext): [string, ...string[]] {
  if (process.platform === 'win32') return [env['COMSPEC'] ?? 'cmd', '/C', script]
  return [env['SHELL'] || '/bin/sh', '-c', script]
}

function notStarted(program: string, error: NodeJS.ErrnoException): string {
  return error.code === 'ENOENT' ? `exec: ${JSON.stringify(program)}: executable file not found in $PATH` : error.message
}
