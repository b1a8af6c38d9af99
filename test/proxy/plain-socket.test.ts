// Plain sockets: what comes before anybody listens is kept, in order.
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import { adopt, readingOptions, socketOptions } from '../../src/proxy/plain-socket.ts'
import { until } from '../support/proxy-scene.ts'

/** Both ends of a connection, each read in the way under test. */
async function pair(): Promise<{ accepted: Socket; dialled: Socket; close: () => void }> {
  const server = createServer({ ...socketOptions, pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const dialled = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', ...socketOptions, onread: readingOptions() })
  const [raw] = (await once(server, 'connection')) as [Socket]
  const accepted = adopt(raw)
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
