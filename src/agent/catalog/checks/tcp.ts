/** A TCP check: passes when a connection, with TCPUseTLS also a TLS handshake, succeeds within the timeout. Nothing is sent. */
import net from 'node:net'
import tls from 'node:tls'
import type { CheckDefinition } from '../../../mesh/check.ts'
import { timeoutOf, type Outcome } from './poll.ts'

export function checkTcp(definition: CheckDefinition, stop: AbortSignal): Promise<Outcome> {
  const address = definition.tcp ?? ''
  const target = parseAddress(address)
  if (!target) return Promise.resolve({ status: 'critical', output: `dial tcp: address ${address}: missing port in address` })
  return new Promise(resolve => {
    const socket = definition.tcpUseTls
      ? tls.connect({
          ...target,
          rejectUnauthorized: !definition.tlsSkipVerify,
          ...(definition.tlsServerName ? { servername: definition.tlsServerName } : {}),
        })
      : net.connect(target)
    const end = (outcome: Outcome) => {
      stop.removeEventListener('abort', onStop)
      socket.destroy()
      resolve(outcome)
    }
    const fail = (cause: string) => end({ status: 'critical', output: `dial tcp ${address}: ${cause}` })
    const onStop = () => fail('operation was canceled')
    stop.addEventListener('abort', onStop, { once: true })
    socket.setTimeout(timeoutOf(definition), () => fail('i/o timeout'))
    socket.once(definition.tcpUseTls ? 'secureConnect' : 'connect', () =>
      end({ status: 'passing', output: `TCP connect ${address}: Success` }),
    )
    socket.on('error', (error: NodeJS.ErrnoException) =>
      fail(error.code === 'ECONNREFUSED' ? 'connect: connection refused' : error.message),
    )
  })
}

/** `host:port`, with brackets around an IPv6 address. */
export function parseAddress(address: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(address)
  if (!match) return undefined
  const port = Number(match[3])
  if (port < 1 || port > 65535) return undefined
  return { host: match[1] ?? (match[2] || 'localhost'), port }
}
