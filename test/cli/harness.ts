// Runs commands in this process, with streams that can be read, against an agent that a test names.
import { registerCatalog } from '../../src/cli/catalog.ts'
import { run, type Register } from '../../src/cli/command.ts'
import { registerConfig } from '../../src/cli/config.ts'
import { registerInfo } from '../../src/cli/info.ts'
import { registerIntention } from '../../src/cli/intention.ts'
import { registerKv } from '../../src/cli/kv.ts'
import { registerLifecycle } from '../../src/cli/lifecycle.ts'
import { registerMembers } from '../../src/cli/members.ts'
import { registerPeering } from '../../src/cli/peering.ts'
import { registerServices } from '../../src/cli/services.ts'
import { registerSnapshot } from '../../src/cli/snapshot.ts'
import { registerTls } from '../../src/cli/tls.ts'
import { registerValidate } from '../../src/cli/validate.ts'
import { registerVersion } from '../../src/cli/version.ts'
import { registerWhatif } from '../../src/cli/whatif.ts'
import { registerWhy } from '../../src/cli/why.ts'

export const commands: Register[] = [
  registerPeering,
  registerConfig,
  registerServices,
  registerCatalog,
  registerIntention,
  registerKv,
  registerMembers,
  registerWhy,
  registerWhatif,
  registerInfo,
  registerSnapshot,
  registerLifecycle,
  registerValidate,
  registerTls,
  registerVersion,
]

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
