/**
 * Resident memory of a pair's processes: after the start, with a thousand connections open that each have done a request, and where
 * the caller's sidecar has a thousand upstreams. Each from a fresh pair, because memory that was once used is seldom given back.
 */
import { connect, type Socket } from 'node:net'
import { messageOf } from '../../src/lib/errors.ts'
import { ResponseReader } from '../load/message.ts'
import { residentBytes } from '../machine/process.ts'
import { wholly } from '../machine/scratch.ts'
import { fieldOf, type Wish as FieldWish } from './contenders.ts'
import type { Ground, Pair } from './pair.ts'
import type { MemoryReport } from './report.ts'

export const memorySizes = { connections: 1000, upstreams: 1000 } as const
/** Opened at a time. */
const batch = 20
/** What a process needs to come to rest. */
const restMs = 3000

const rest = () => new Promise(resolve => setTimeout(resolve, restMs))

export async function measureMemory(
  ground: Ground,
  wish: FieldWish & { missing(name: string, reason: string): void; progress(text: string): void },
): Promise<MemoryReport[]> {
  const reports: MemoryReport[] = []
  for (const { name, start, startLarge } of fieldOf('http', wish).contenders) {
    if (name === 'direct') continue
    const measure = async (what: string, begin: () => Promise<Pair>, prepare: (pair: Pair) => Promise<() => void>) => {
      wish.progress(`memory: ${name}, ${what}`)
      try {
        const pair = await wholly(begin)
        try {
          const done = await prepare(pair)
          await rest()
          const resident = Object.fromEntries(pair.processes.map(({ role, pid }) => [role, residentBytes(pid)]))
          reports.push({ name, what, resident })
          done()
        } finally {
          await pair.stop()
        }
      } catch (error) {
        wish.missing(`${name} (memory, ${what})`, messageOf(error))
      }
    }
    const nothing = () => Promise.resolve(() => undefined)
    await measure('idle', () => start(ground), nothing)
    await measure(`${memorySizes.connections} connections`, () => start(ground), hold)
    if (startLarge) await measure(`${memorySizes.upstreams} upstreams`, () => startLarge(ground, memorySizes.upstreams), nothing)
  }
  return reports
}

/** Opens the connections, sees each answered once and keeps them until told. */
async function hold({ port }: Pair): Promise<() => void> {
  const sockets: Socket[] = []
  while (sockets.length < memorySizes.connections) {
    sockets.push(
      ...(await Promise.all(Array.from({ length: Math.min(batch, memorySizes.connections - sockets.length) }, () => once(port)))),
    )
  }
  return () => sockets.forEach(socket => socket.destroy())
}

function once(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const reader = new ResponseReader('GET')
    const socket = connect(port, '127.0.0.1', () => socket.write('GET /small HTTP/1.1\r\nhost: api\r\n\r\n'))
    socket.on('error', reject)
    socket.on('close', () => reject(new Error('a connection was closed')))
    socket.on('data', chunk => {
      const head = reader.push(chunk)
      if (typeof head === 'object' && head.status === 200) resolve(socket)
      else if (head !== undefined) reject(new Error(typeof head === 'string' ? head : `status ${head.status}`))
    })
  })
}
