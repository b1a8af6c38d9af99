/** /v1/status (spec/http-api.md 14): who leads. This agent is the only server of its cluster, so it does. */
import { isIPv6 } from 'node:net'
import { json } from './reply.ts'
import type { Call, Route } from './route.ts'

/** Consul names its servers by their RPC port, which we do not have: 8300, its default, stands for it. */
export const serverRpcPort = 8300

/** A name only, too: nothing gossips. The next one is that of the WAN. */
export const gossipPort = 8301

export function serverAddress(call: Call): string {
  const { advertiseAddr } = call.agent.config
  return `${isIPv6(advertiseAddr) ? `[${advertiseAddr}]` : advertiseAddr}:${serverRpcPort}`
}

export const statusRoutes: Route[] = [
  { method: 'GET', path: '/v1/status/leader', what: 'the address of the leader', handler: call => json(serverAddress(call)) },
  { method: 'GET', path: '/v1/status/peers', what: 'the addresses of the servers', handler: call => json([serverAddress(call)]) },
]
