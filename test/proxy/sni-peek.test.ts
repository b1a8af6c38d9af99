/** The gateway's reading of a ClientHello: whole, cut anywhere, and hostile. */
import { connect } from 'node:tls'
import { createServer, type AddressInfo } from 'node:net'
import { array, assert, nat, property, tuple, uint8Array } from 'fast-check'
import t from 'tap'
import { maxHelloBytes, peekServerName } from '../../src/proxy/sni-peek.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'

/** The ClientHello that Node's own TLS sends. */
async function captureHello(servername: string | undefined): Promise<Buffer> {
  return new Promise(resolve => {
    const server = createServer(socket => {
      socket.once('data', hello => {
        socket.destroy()
        server.close()
        resolve(hello)
      })
    })
    server.listen(0, '127.0.0.1', () => {
      const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', ...(servername ? { servername } : {}) })
      client.on('error', () => {})
    })
  })
}

/** Cuts the hello's one record into records of the given payload sizes. */
function refragment(hello: Buffer, size: number): Buffer {
  const body = hello.subarray(5)
  const records: Buffer[] = []
  for (let at = 0; at < body.length; at += size) {
    const part = body.subarray(at, at + size)
    records.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part)
  }
  return Buffer.concat(records)
}

const name = 'API.default.default.cluster-one.external.e34756cd-9482-b0b5-868a-3b6b5ca0c4f4.consul'

t.test('the name of a real ClientHello is read in lower case', async t => {
  t.strictSame(peekServerName(await captureHello(name)), { state: 'done', sni: name.toLowerCase() })
})

t.test('every proper prefix of a ClientHello needs more and nothing else', async t => {
  const hello = await captureHello(name)
  const states = new Set<string>()
  for (let length = 0; length < hello.length; length += 1) states.add(peekServerName(hello.subarray(0, length)).state)
  t.strictSame([...states], ['more'])
})

t.test('a ClientHello cut into records is put together', async t => {
  const hello = await captureHello(name)
  // With post-quantum key shares, as newer Nodes send them, a hello is over 1,500 bytes; it may come in 64 records.
  const least = Math.ceil(hello.length / 64)
  for (const size of [least, least + 1, 100, 255])
    t.strictSame(peekServerName(refragment(hello, size)), { state: 'done', sni: name.toLowerCase() }, `${size}`)
})

t.test('a ClientHello in more records than anybody needs is refused', async t => {
  t.strictSame(peekServerName(refragment(await captureHello(name), 1)), { state: 'refused', reason: 'malformed' })
})

t.test('a ClientHello without a name, or with an address as the name, is refused', async t => {
  t.strictSame(peekServerName(await captureHello(undefined)), { state: 'refused', reason: 'no-server-name' })
})

t.test('what is not TLS is refused at its first byte', async t => {
  t.strictSame(peekServerName(Buffer.from('G')), { state: 'refused', reason: 'not-tls' })
  t.strictSame(peekServerName(Buffer.from([22, 2])), { state: 'refused', reason: 'not-tls' })
})

t.test('bytes after the ClientHello are refused', async t => {
  const hello = await captureHello(name)
  t.strictSame(peekServerName(Buffer.concat([hello, Buffer.from([22])])), { state: 'refused', reason: 'malformed' })
})

t.test('a hello that states more than the limit is refused before it has come', async t => {
  const head = Buffer.from([22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff])
  t.strictSame(peekServerName(head), { state: 'refused', reason: 'too-long' })
})

t.test('two names, two name extensions and a name with a control character are refused', async t => {
  const hello = await captureHello('abcd.example')
  const at = hello.indexOf('abcd.example')
  const nul = Buffer.from(hello)
  nul[at + 4] = 0
  t.strictSame(peekServerName(nul), { state: 'refused', reason: 'malformed' })
  const asAlpn = Buffer.from(hello)
  // The list's length counts fewer bytes than its extension: what is left over is a second reading.
  asAlpn.writeUInt16BE(asAlpn.readUInt16BE(at - 5) - 1, at - 5)
  t.strictSame(peekServerName(asAlpn), { state: 'refused', reason: 'malformed' })
})

t.test('mutated hellos never throw, and never yield a name that is not in the bytes', async t => {
  const hello = await captureHello(name)
  assert(
    property(
      array(tuple(nat(hello.length - 1), nat(255)), { maxLength: 6 }),
      nat(hello.length),
      uint8Array({ maxLength: 40 }),
      (changes, cut, tail) => {
        const bytes = Buffer.concat([hello.subarray(0, cut), tail, hello.subarray(cut)]).subarray(0, maxHelloBytes)
        for (const [at, value] of changes) bytes[at] = value
        const peek = peekServerName(bytes)
        return peek.state !== 'done' || bytes.toString('latin1').toLowerCase().includes(peek.sni)
      },
    ),
    { numRuns: deep ? 50_000 : 2000 },
  )
  assert(
    property(uint8Array({ maxLength: 300 }), bytes => peekServerName(Buffer.from(bytes)).state !== 'done'),
    { numRuns: deep ? 50_000 : 2000 },
  )
  t.pass('no exception and no invented name')
})
