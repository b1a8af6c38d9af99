/**
 * Who may not talk to this door at all (DESIGN 8). Without ACLs a laptop's API is reachable by every web page its owner opens, so
 * what a browser says about another site's page is believed and refused, and a Host that is a name someone else may point here
 * (DNS rebinding) is refused. Programs send none of these headers; for a person the answer says what to change.
 */
import type { IncomingMessage } from 'node:http'
import { isIP, type Socket } from 'node:net'
import type { Remote } from './route.ts'

export interface Refusal {
  status: number
  body: string
}

export interface GuardSettings {
  /** Names, besides addresses and localhost, that a Host (and an Origin) may carry; lower case. */
  allowedHosts: ReadonlySet<string>
}

/** Undefined when the request may go on. `authority` is the host that the request names. */
export function guard(
  request: IncomingMessage,
  authority: string | undefined,
  remote: Remote,
  settings: GuardSettings,
): Refusal | undefined {
  // No browser reaches a unix socket, and clients there send any Host.
  if (remote.unix) return undefined
  if (authority !== undefined) {
    const host = hostOf(authority)
    if (host === undefined) return { status: 400, body: 'malformed Host header; send the address that you dialled' }
    if (!isOwnName(host, settings)) {
      return {
        status: 403,
        body: `Host ${JSON.stringify(host)} is not an address, not localhost and not configured: refused, because a name of someone else's may point here (DNS rebinding); use the address, or add the name to http_config.allowed_hosts`,
      }
    }
  }
  return crossSite(request, authority)
}

function crossSite(request: IncomingMessage, authority: string | undefined): Refusal | undefined {
  const site = request.headers['sec-fetch-site']
  const origin = request.headers.origin
  const foreign =
    (site !== undefined && site !== 'same-origin' && site !== 'none') || (origin !== undefined && !isSameOrigin(origin, authority))
  if (!foreign) return undefined
  return {
    status: 403,
    body: 'a web page of another origin made this request: refused; call the API from a program, or from a page that this agent serves itself',
  }
}

/** `Origin` names the scheme, host and port of the page; ours is the host and port that this request came to. */
function isSameOrigin(origin: string, authority: string | undefined): boolean {
  const match = /^https?:\/\/([^/]+)$/i.exec(origin)
  return match !== null && authority !== undefined && match[1]!.toLowerCase() === authority.toLowerCase()
}

/** The host of a `host[:port]`; undefined for anything else. */
export function hostOf(authority: string): string | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?$/.exec(authority)
  return (match?.[1] ?? match?.[2])?.toLowerCase()
}

function isOwnName(host: string, settings: GuardSettings): boolean {
  return isIP(host) !== 0 || host === 'localhost' || settings.allowedHosts.has(host)
}

/** Headers by which a proxy says that it hands on somebody else's request. */
const forwardingHeaders = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via'] as const

export function remoteOf(socket: Socket, headers: IncomingMessage['headers']): Remote {
  const address = (socket.remoteAddress ?? '').replace(/^::ffff:/, '')
  const unix = address === '' && socket.remotePort === undefined
  return {
    address,
    unix,
    loopback: address.startsWith('127.') || address === '::1',
    forwarded: forwardingHeaders.some(name => headers[name] !== undefined),
  }
}

/** The two internal calls (DESIGN 3): loopback or a unix socket, and nobody in between. */
export function mayUseInternal(remote: Remote): boolean {
  return (remote.unix || remote.loopback) && !remote.forwarded
}

/** Counts open connections of each client address; a unix socket's are one user's own and are not counted. */
export class ConnectionCounter {
  readonly #limit: number
  readonly #open = new Map<string, number>()

  constructor(limit: number) {
    this.#limit = limit
  }

  /** False when this connection is one too many. */
  admit(socket: Socket): boolean {
    const address = socket.remoteAddress
    if (address === undefined) return true
    const open = this.#open.get(address) ?? 0
    if (open >= this.#limit) return false
    this.#open.set(address, open + 1)
    socket.once('close', () => {
      const left = (this.#open.get(address) ?? 1) - 1
      if (left > 0) this.#open.set(address, left)
      else this.#open.delete(address)
    })
    return true
  }
}
