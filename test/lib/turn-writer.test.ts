// Long bodies: what is written may be lent, stays in order with everything else, and its blocks serve again once they were written.
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import { socketOptions } from '../../src/proxy/socket-reads.ts'
import { TurnWriter } from '../../src/lib/turn-writer.ts'

async function pair(): Promise<{ near: Socket; far: Socket; close: () => void }> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const near = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', ...socketOptions })
  const [far] = (await once(server, 'connection')) as [Socket]
  const close = () => {
    near.destroy()
    far.destroy()
    server.close()
  }
  return { near, far, close }
}

/** Bytes whose value says where they belong. */
function pattern(from: number, length: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, i) => ((from + i) * 31 + ((from + i) >> 8)) & 255))
}

for (const gathers of [true, false])
  t.test(`lent bytes arrive whole and in order, beside texts and through a slow reader (gathers: ${gathers})`, async t => {
    const { near, far, close } = await pair()
    t.teardown(close)
    const writer = new TurnWriter(near, gathers)
    const heard: Buffer[] = []
    far.on('data', (chunk: Buffer) => {
      heard.push(chunk)
      far.pause()
      setTimeout(() => far.resume(), 1)
    })
    const lent = Buffer.alloc(64 * 1024)
    const sent: Buffer[] = []
    const sizes = [1, 16_384, 16_384, 65_536, 300, 65_535, 2, 16_384]
    let at = 0
    for (let round = 0; round < 24; round += 1) {
      for (const size of sizes) {
        const piece = pattern(at, size)
        at += size
        piece.copy(lent)
        const more = writer.write(lent.subarray(0, size))
        // Whoever lent them reads into them again.
        lent.fill(0)
        sent.push(piece)
        if (!more) await once(near, 'drain')
      }
      near.write(`-${round}-`, 'latin1')
      sent.push(Buffer.from(`-${round}-`))
      if (round % 3 === 0) await new Promise(setImmediate)
    }
    near.end()
    await once(far, 'end')
    t.ok(Buffer.concat(heard).equals(Buffer.concat(sent)))
  })

t.test('pieces of one turn leave together, and more than a block does not wait', async t => {
  const { near, close } = await pair()
  t.teardown(close)
  const writer = new TurnWriter(near)
  writer.write(Buffer.alloc(16_384))
  writer.write(Buffer.alloc(16_384))
  t.equal(near.writableCorked, 1)
  t.equal(near.writableLength, 32_768, 'waits for the end of the turn')
  await new Promise(setImmediate)
  await new Promise(setImmediate)
  t.equal(near.writableCorked, 0)
  writer.write(Buffer.alloc(16_384))
  writer.write(Buffer.alloc(65_536))
  t.equal(near.writableCorked, 0, 'enough for a write of its own')
})

t.test('a write to a stream that is gone throws nothing and answers that there is no room', async t => {
  const { near, close } = await pair()
  t.teardown(close)
  near.on('error', () => {})
  near.destroy()
  const writer = new TurnWriter(near)
  t.equal(writer.write(Buffer.alloc(200_000)), false)
  await new Promise(setImmediate)
})
