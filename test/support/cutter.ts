/**
 * What the transfer tests share: connections cut at random on every layer, and bytes that say whose they are and where they belong. All of
 * it follows a seed.
 */
import { connect, createServer, type Server } from 'node:net'
import { Duplex } from 'node:stream'
import { seeded } from './seeded.ts'

export type Random = () => number

export const under = (random: Random, limit: number) => Math.floor(random() * limit)
/** Mostly small, sometimes beyond a window. */
export const sizeOf = (random: Random) =>
  random() < 0.85 ? under(random, 6000) : random() < 0.8 ? under(random, 60_000) : under(random, 700_000)

const poolBytes = 1 << 20
const pool = Buffer.alloc(poolBytes * 2)
for (let i = 0, random = seeded(1); i < poolBytes; i += 1) pool[i] = pool[i + poolBytes] = under(random, 256)

/** What stream `id` sends from `offset` in one direction: every stream starts elsewhere in the pool. */
export function expected(id: number, answer: boolean, offset: number, size: number): Buffer {
  const from = (id * 15_485_863 + (answer ? 524_287 : 0) + offset) % poolBytes
  return pool.subarray(from, from + Math.min(size, poolBytes))
}

/** Whether these are the bytes that stream `id` sends from `offset` on. */
export function isExpected(id: number, answer: boolean, offset: number, bytes: Buffer): boolean {
  for (let at = 0; at < bytes.length;) {
    const want = expected(id, answer, offset + at, bytes.length - at)
    if (!want.equals(bytes.subarray(at, at + want.length))) return false
    at += want.length
  }
  return true
}

/** Hands on what comes in pieces of random size, some of them later. */
export class Cutter extends Duplex {
  constructor(inner: Duplex, random: Random) {
    super({ allowHalfOpen: true })
    this.#inner = inner
    this.#random = random
    inner.on('data', (chunk: Buffer) => {
      for (let at = 0; at < chunk.length;) {
        const size = Math.min(chunk.length - at, pieceSize(random))
        if (!this.push(chunk.subarray(at, at + size))) inner.pause()
        at += size
      }
    })
    inner.on('end', () => this.push(null))
    inner.on('close', () => this.destroy())
    inner.on('error', () => this.destroy())
  }

  readonly #inner: Duplex
  readonly #random: Random

  override _read(): void {
    this.#inner.resume()
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    const at = Math.min(chunk.length, pieceSize(this.#random))
    const rest = Buffer.from(chunk.subarray(at))
    this.#inner.write(Buffer.from(chunk.subarray(0, at)))
    const write = () => void this.#inner.write(rest, () => done())
    if (this.#random() < 0.1) setImmediate(write)
    else write()
  }

  override _final(done: () => void): void {
    this.#inner.end(done)
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#inner.destroy()
    done(error)
  }
}

const pieceSize = (random: Random) => 1 + (random() < 0.3 ? under(random, 30) : under(random, 30_000))

/** Passes TCP on in pieces of random size. */
export async function startRelay(to: number, random: Random): Promise<Server> {
  const relay = createServer({ allowHalfOpen: true, noDelay: true }, near => {
    const far = connect({ port: to, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
    // One that was broken off has no end to pass on.
    near.on('error', () => far.destroy())
    far.on('error', () => near.destroy())
    new Cutter(near, random).pipe(far)
    new Cutter(far, random).pipe(near)
  })
  await new Promise<void>(resolve => relay.listen(0, '127.0.0.1', resolve))
  return relay
}
