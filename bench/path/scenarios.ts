/** What the pairs are asked to do. A scenario's `hop` says between which processes it runs, so which contenders take part. */
import { mebibyte } from './backend.ts'
import { loadGrpc, loadHttp, type Loaded } from './load.ts'

export type Hop = 'http' | 'grpc' | 'gateway'

export interface Scenario {
  name: string
  what: string
  hop: Hop
  connections: number
  /** In an open loop CPU depends on how requests meet, and times are told beside those of the direct way. */
  open?: boolean
  run(port: number, seconds: number, directory: string): Promise<Loaded>
}

const get = (connections: number, hop: Hop = 'http'): Scenario => ({
  name: `${hop === 'gateway' ? 'gateway-' : ''}small-${connections}`,
  what: `GET of 64 bytes, ${connections} connection${connections === 1 ? '' : 's'}`,
  hop,
  connections,
  run: (port, seconds, directory) => loadHttp({ port, path: '/small', seconds, connections }, directory),
})

const body = (name: string, what: string, path: string, connections: number, bodyBytes?: number, hop: Hop = 'http'): Scenario => ({
  name,
  what: `${what}, ${connections} connections`,
  hop,
  connections,
  run: (port, seconds, directory) => loadHttp({ port, path, seconds, connections, bodyBytes }, directory),
})

const open = (rate: number): Scenario => ({
  name: `open-${rate}`,
  what: `GET of 64 bytes, ${rate} a second (Poisson) over 16 connections`,
  hop: 'http',
  connections: 16,
  open: true,
  run: (port, seconds, directory) => loadHttp({ port, path: '/small', seconds, connections: 16, rate }, directory),
})

export const scenarios: readonly Scenario[] = [
  ...[1, 8, 64, 256].map(connections => get(connections)),
  body('post-64', 'POST of 1 KiB, 1 KiB back', '/post', 64, 1024),
  body('download', 'GET of 1 MiB', '/large', 16),
  body('upload', 'POST of 1 MiB', '/upload', 16, mebibyte),
  {
    name: 'connect',
    what: 'GET of 64 bytes, a new connection for each, 16 at a time',
    hop: 'http',
    connections: 16,
    run: (port, seconds, directory) => loadHttp({ port, path: '/small', seconds, connections: 16, closing: true }, directory),
  },
  ...[200, 1000, 4000].map(open),
  {
    name: 'grpc',
    what: 'gRPC unary calls of 64 bytes, 8 connections with 8 at a time',
    hop: 'grpc',
    connections: 8,
    run: (port, seconds, directory) => loadGrpc({ port, seconds, connections: 8, streams: 8 }, directory),
  },
  get(64, 'gateway'),
  body('gateway-download', 'GET of 1 MiB through a gateway', '/large', 16, undefined, 'gateway'),
]

/** What is measured besides, once and not in rounds. */
export const memory = 'memory'

/** `only` names scenarios; the end of a name may be `*`. */
export function chosen(only: readonly string[] | undefined): { scenarios: Scenario[]; memory: boolean } {
  if (!only) return { scenarios: [...scenarios], memory: true }
  const matches = (name: string, wanted: string) => (wanted.endsWith('*') ? name.startsWith(wanted.slice(0, -1)) : name === wanted)
  const names = [...scenarios.map(({ name }) => name), memory]
  const unknown = only.filter(wanted => !names.some(name => matches(name, wanted)))
  if (unknown.length > 0) throw new Error(`no scenario ${unknown.join(', ')}; there are ${names.join(', ')}`)
  const isWanted = (name: string) => only.some(wanted => matches(name, wanted))
  return { scenarios: scenarios.filter(({ name }) => isWanted(name)), memory: isWanted(memory) }
}
