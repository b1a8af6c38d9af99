/** Addresses as flags give them: `host:port`, the host an IP literal or a name. */
import { InvalidArgumentError } from 'commander'

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
