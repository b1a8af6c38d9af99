// Runs commands in this process, with streams that can be read, against an agent that a test names.
import { run } from '../../src/cli/command.ts'
import { commands } from '../../src/cli/commands.ts'

export interface Outcome {
  code: number
  stdout: string
  stderr: string
}

export interface Surroundings {
  env?: Record<string, string>
  stdin?: string | Buffer
}

export async function isthmus(args: string[], { env = {}, stdin = '' }: Surroundings = {}): Promise<Outcome> {
  let stdout = ''
  let stderr = ''
  const code = await run(args, commands, {
    env,
    stdin: (async function* () {
      yield Buffer.from(stdin)
    })(),
    stdout: { write: text => (stdout += text.toString()) },
    stderr: { write: text => (stderr += text) },
  })
  return { code, stdout, stderr }
}

/** The same, with the agent's address in the environment. */
export function against(url: string): (args: string[], stdin?: string | Buffer) => Promise<Outcome> {
  return (args, stdin = '') => isthmus(args, { env: { ISTHMUS_HTTP_ADDR: url }, stdin })
}
