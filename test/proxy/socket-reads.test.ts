// Sockets that read into the shared buffer: it is lent to who asks for it, everybody else gets bytes of his own, in order.
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { connect as connectTls, createServer as createTlsServer } from 'node:tls'
import t from 'tap'
import { isBorrowed, type Borrower } from '../../src/lib/read-buffer.ts'
import { readShared, socketOptions } from '../../src/proxy/socket-reads.ts'
import { Mint } from '../support/mint.ts'
import { until } from '../support/proxy-scene.ts'

/** Both ends of a connection, each read in the way under test. */
async function pair(): Promise<{ accepted: Socket; dialled: Socket; close: () => void }> {
  const server = createServer(socketOptions).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const dialled = readShared(connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', ...socketOptions }))
  const [raw] = (await once(server, 'connection')) as [Socket]
  const accepted = readShared(raw)
  const close = () => {
    accepted.destroy()
    dialled.destroy()
    server.close()
  }
  return { accepted, dialled, close }
}

for (const side of ['accepted', 'dialled'] as const) {
  t.test(`what comes before somebody listens stays in order (${side})`, async t => {
    const both = await pair()
    t.teardown(both.close)
    const reader = both[side]
    const writer = side === 'accepted' ? both.dialled : both.accepted
    for (const text of ['one ', 'two ', 'three']) {
      const before = reader.bytesRead
      writer.write(text)
      reader.read(0)
      await until(() => reader.bytesRead > before)
    }
    writer.end()
    let heard = ''
    reader.on('data', (chunk: Buffer) => (heard += chunk.toString()))
    await once(reader, 'end')
    t.equal(heard, 'one two three')
  })
}

/** Both ends of a TLS connection, read in the way under test from the handshake on. */
async function tlsPair(): Promise<{ accepted: Socket; dialled: Socket; close: () => void }> {
  const mint = new Mint()
  const root = await mint.root('a.consul')
  const { certPem: cert, keyPem: key } = await mint.leaf(root, { san: 'DNS:a.consul' })
  const server = createTlsServer({ ...socketOptions, cert, key }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const dialled = connectTls({ port, host: '127.0.0.1', servername: 'a.consul', ca: root.certPem, ...socketOptions })
  const [[accepted]] = (await Promise.all([once(server, 'secureConnection'), once(dialled, 'secureConnect')])) as [[Socket], unknown]
  const close = () => {
    accepted.destroy()
    dialled.destroy()
    server.close()
    mint.remove()
  }
  return { accepted: readShared(accepted), dialled: readShared(dialled), close }
}

for (const kind of ['plain', 'tls'] as const)
  for (const side of ['accepted', 'dialled'] as const) {
    t.test(`bytes are lent to who borrows, and given to everybody else (${kind}, ${side})`, async t => {
      const both = await (kind === 'tls' ? tlsPair() : pair())
      t.teardown(both.close)
      const reader: Socket & Borrower = both[side]
      const writer = side === 'accepted' ? both.dialled : both.accepted
      const seen: { text: string; lent: boolean; chunk: Buffer }[] = []
      reader.on('data', (chunk: Buffer) => seen.push({ text: chunk.toString(), lent: isBorrowed(chunk), chunk }))
      for (const [text, borrows] of [
        ['given', false],
        ['lent', true],
        ['given again', false],
      ] as const) {
        reader.borrows = borrows
        const count = seen.length
        writer.write(text)
        await until(() => seen.length > count)
      }
      t.same(
        seen.map(({ text, lent }) => ({ text, lent })),
        [
          { text: 'given', lent: false },
          { text: 'lent', lent: true },
          { text: 'given again', lent: false },
        ],
      )
      t.equal(seen[0]!.chunk.toString(), 'given', 'what was given stays')
    })

    t.test(`nothing is handed out after a pause, and nothing is lost (${kind}, ${side})`, async t => {
      const both = await (kind === 'tls' ? tlsPair() : pair())
      t.teardown(both.close)
      const reader: Socket & Borrower = both[side]
      const writer = side === 'accepted' ? both.dialled : both.accepted
      reader.borrows = true
      const sent = Buffer.alloc(1 << 20, 'isthmus ')
      const heard: Buffer[] = []
      let early = 0
      let length = 0
      reader.on('data', (chunk: Buffer) => {
        if (reader.isPaused()) early += 1
        heard.push(Buffer.from(chunk))
        length += chunk.length
        reader.pause()
        setImmediate(() => reader.resume())
      })
      writer.end(sent)
      await once(reader, 'end')
      t.equal(early, 0)
      t.equal(length, sent.length)
      t.ok(Buffer.concat(heard).equals(sent))
    })
  }
