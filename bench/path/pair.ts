/**
 * What is measured: a pair of proxies that take plain HTTP from a caller and bring it over mTLS to an app, each proxy a process (with
 * its children) on the measured core. One file a product; all of them do the same hop between the same two ends.
 */
import type { Running } from '../../test/support/processes.ts'
import type { Certificates } from './certificates.ts'

export type Protocol = 'http' | 'grpc'

/** What every pair stands on. */
export interface Ground {
  /** For configuration files; goes when the run ends. */
  directory: string
  certificates: Certificates
  /** The app's ports: HTTP/1.1, and HTTP/2 without TLS. */
  backend: Record<Protocol, number>
  protocol: Protocol
}

export interface Pair {
  /** Where the load goes. */
  port: number
  /** Whose CPU time counts, by what they do; none for the direct way. */
  processes: { role: 'outbound' | 'inbound' | 'gateway'; pid: number }[]
  /** Whose CPU time is told apart, and counts for nothing. */
  beside?: { role: string; pid: number }[]
  stop(): Promise<void>
}

/** A pair of two processes that were started, and end with it. */
export function pairOf(port: number, outbound: Running, inbound: Running): Pair {
  return {
    port,
    processes: [
      { role: 'outbound', pid: outbound.child.pid! },
      { role: 'inbound', pid: inbound.child.pid! },
    ],
    async stop() {
      await Promise.all([outbound, inbound].map(each => each.stop()))
    },
  }
}

export interface Contender {
  name: string
  version: string
  /** Ratios are of these over all others. */
  ours: boolean
  start: (ground: Ground) => Promise<Pair>
  /** The same, where the caller has so many upstreams besides. */
  startLarge?: (ground: Ground, upstreams: number) => Promise<Pair>
}

/** Why a contender does not run here, and what would help. */
export interface Absent {
  name: string
  reason: string
}
