/**
 * Opening one connection: plain to the app and to gateway endpoints, mTLS to upstreams. An attempt has one deadline over everything
 * it takes, leaves nothing behind when it fails, and failing is an ordinary outcome. A TLS stream is handed out only after the
 * server's identity was checked: its chain against the owner's roots alone, and its URI against the list, byte for byte.
 */
import type { X509Certificate } from 'node:crypto'
import { connect as connectTcp, type Socket } from 'node:net'
import { connect as connectTls, type ConnectionOptions, type SecureContext, type TLSSocket } from 'node:tls'
import { readShared, socketOptions } from './socket-reads.ts'
import { permitOf, presentedChain, type Permit } from './permit.ts'

export type Dialed<S> = { ok: true; stream: S } | DialFailure
export interface DialFailure {
  ok: false
  reason: 'refused' | 'timeout' | 'identity'
  /** Envoy's words, for the answer to the app. */
  reset: 'remote connection failure' | 'connection timeout'
}

const refused: DialFailure = { ok: false, reason: 'refused', reset: 'remote connection failure' }
const timedOut: DialFailure = { ok: false, reason: 'timeout', reset: 'connection timeout' }
const wrongIdentity: DialFailure = { ok: false, reason: 'identity', reset: 'remote connection failure' }

export interface PlainTarget {
  address: string
  port: number
  socketPath?: string | undefined
}

export function dialPlain(target: PlainTarget, timeoutMs: number): Promise<Dialed<Socket>> {
  const options = target.socketPath ? { path: target.socketPath } : { host: target.address, port: target.port }
  const socket = opened(() => readShared(connectTcp({ ...options, ...socketOptions })))
  return socket ? settle(socket, 'connect', timeoutMs, () => ({ ok: true, stream: socket })) : Promise.resolve(refused)
}

/** Everything that makes a server the right one, made with the plan. */
export interface TlsTarget {
  sni: string
  trustDomain: string
  spiffeIds: ReadonlySet<string>
  roots: readonly X509Certificate[]
  context: SecureContext
}

export function dialTls(
  endpoint: { address: string; port: number },
  target: TlsTarget,
  alpn: readonly string[],
  timeoutMs: number,
): Promise<Dialed<TLSSocket>> {
  const options: ConnectionOptions & { allowHalfOpen: boolean } = {
    host: endpoint.address,
    port: endpoint.port,
    servername: target.sni,
    secureContext: target.context,
    ALPNProtocols: [...alpn],
    ...socketOptions,
    rejectUnauthorized: true,
    // Leaves carry no host name; identity is the URI, judged below.
    checkServerIdentity: () => undefined,
  }
  const socket = opened(() => connectTls(options))
  if (!socket) return Promise.resolve(refused)
  socket.setNoDelay(true)
  return settle(socket, 'secureConnect', timeoutMs, () => {
    if (serverPermit(socket, target) === undefined) return wrongIdentity
    return { ok: true, stream: readShared(socket) }
  })
}

/** Who the server is, if it is one that this upstream may be. Asked again when the plan changes. */
export function serverPermit(socket: TLSSocket, target: Pick<TlsTarget, 'trustDomain' | 'spiffeIds' | 'roots'>): Permit | undefined {
  const made = permitOf(presentedChain(socket), domain => (domain === target.trustDomain ? target.roots : undefined), Date.now())
  return made.ok && target.spiffeIds.has(made.permit.uri) ? made.permit : undefined
}

/** Node throws at once for a port that is none; an endpoint is what a peer says it is. */
function opened<S>(open: () => S): S | undefined {
  try {
    return open()
  } catch {
    return undefined
  }
}

function settle<S extends Socket>(socket: S, event: string, timeoutMs: number, judge: () => Dialed<S>): Promise<Dialed<S>> {
  return new Promise(resolve => {
    let settled = false
    const finish = (outcome: Dialed<S>) => {
      if (settled) return
      settled = true
      clearTimeout(timer)
      socket.off('close', onClose)
      if (outcome.ok) socket.off('error', onError)
      else socket.destroy()
      resolve(outcome)
    }
    const onError = () => finish(refused)
    const onClose = () => finish(refused)
    const timer = setTimeout(() => finish(timedOut), timeoutMs)
    socket.once(event, () => {
      const outcome = judge()
      // An error between here and the moment when the new owner listens must not be thrown.
      if (outcome.ok) socket.on('error', () => {})
      finish(outcome)
    })
    socket.on('error', onError)
    socket.once('close', onClose)
  })
}
