/** What a command may touch of the world outside: its environment and its three streams. Tests hand in their own. */

export interface CliContext {
  env: Readonly<Record<string, string | undefined>>
  stdin: AsyncIterable<Buffer | string>
  stdout: { write(text: string | Buffer): unknown }
  stderr: { write(text: string): unknown }
}

export function processContext(): CliContext {
  return { env: process.env, stdin: process.stdin, stdout: process.stdout, stderr: process.stderr }
}

/** Ends a command: `message` goes to stderr as it is, `exitCode` to the shell (spec/cli.md 1). An empty message prints nothing. */
export class CliError extends Error {
  override readonly name = 'CliError'
  readonly exitCode: number

  constructor(message: string, exitCode = 1, options?: ErrorOptions) {
    super(message, options)
    this.exitCode = exitCode
  }
}

/** A value of the environment under isthmus's own name, else under Consul's. */
export function fromEnvironment(context: CliContext, name: string): string | undefined {
  return context.env[`ISTHMUS_${name}`] || context.env[`CONSUL_${name}`] || undefined
}

const maxInputBytes = 16 * 1024 * 1024

/** All of standard input. */
export async function readStdin(context: CliContext): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of context.stdin) {
    const buffer = Buffer.from(chunk)
    bytes += buffer.length
    if (bytes > maxInputBytes)
      throw new CliError(`standard input is longer than ${maxInputBytes} bytes; nothing that this command takes is`)
    chunks.push(buffer)
  }
  return Buffer.concat(chunks)
}
