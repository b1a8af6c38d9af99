/** Addresses as flags give them: `host:port`, the host an IP literal or a name. */
import { InvalidArgumentError } from 'commander'
import { createServer } from 'node:net'
import { CliError } from './context.ts'
import { hostPort, isLoopbackHost } from '../lib/address.ts'

export interface HostPort {
  host: string
  port: number
}

/** For commander: refuses what is no `host:port`. */
export function parseHostPort(text: string): HostPort {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text)
  const port = Number(match?.[3])
  if (!match || port > 65_535) throw new InvalidArgumentError('write it as host:port.')
  return { host: (match[1] ?? match[2])!, port }
}

/** The same, of this machine only. */
export function parseLoopback(text: string): HostPort {
  const address = parseHostPort(text)
  if (!isLoopbackHost(address.host)) throw new InvalidArgumentError('the admin door is for loopback only.')
  return address
}

/** Ends the command when nothing can listen there now; what would otherwise be registered would only mislead others. */
export async function checkListenable(address: HostPort, flag: string): Promise<void> {
  const server = createServer()
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(address.port, address.host, resolve)
    })
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    const next =
      code === 'EADDRINUSE'
        ? `stop what uses it, or choose another ${flag}`
        : code === 'EADDRNOTAVAIL'
          ? `this machine has no such address; ${flag} is one of its own`
          : `choose another ${flag}`
    throw new CliError(`cannot listen on ${hostPort(address.host, address.port)} (${code}): ${next}`, 1, { cause: error })
  }
  await new Promise(resolve => server.close(resolve))
}
