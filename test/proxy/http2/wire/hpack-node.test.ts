/** HPACK against nghttp2, which is in node: each reads what the other writes, and both call the same blocks faulty. */
import {
  connect,
  createServer,
  sensitiveHeaders,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import { createServer as createRawServer, type AddressInfo, type Socket } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import { HpackDecoder } from '../../../../src/proxy/http2/wire/hpack-decoder.ts'
import { HpackEncoder } from '../../../../src/proxy/http2/wire/hpack-encoder.ts'
import { until } from '../../../support/until.ts'
import { endHeaders, endStream, frame, frames, RawClient } from '../frames.ts'
import { hex, huffman, index, literal, sizeUpdate, text, type Literal } from './blocks.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const limits = { headerListBytes: 1 << 20, headerCount: 1000 }
const connectionPreface = 24
const compressionError = 9

const name = fc.oneof(
  fc.constantFrom('x-a', 'x-b', 'content-type', 'user-agent', 'accept-encoding', 'grpc-timeout', 'etag', 'set-cookie'),
  fc.stringMatching(/^[a-z0-9-]{1,12}$/).map(rest => `x-${rest}`),
)
/** Every octet that may be in a value, some of them often enough for a Huffman code to be shorter. */
const value = fc.oneof(
  fc.constantFrom('application/grpc', 'gzip, deflate', '1S', 'a'.repeat(200), 'b'.repeat(900), 'c'.repeat(5000)),
  fc.stringMatching(/^[!-~\x80-\xff]{1,30}$/),
  fc.stringMatching(/^[!-~\x80-\xff]$/).map(odd => `aaaaaaaaaa${odd}aaaaaaaaaa`),
)
const list = fc.uniqueArray(fc.tuple(name, value), { maxLength: 15, selector: ([each]) => each })

const sorted = (flat: readonly string[]) => flat.flatMap((each, i) => (i % 2 === 0 ? [`${each}: ${flat[i + 1]}`] : [])).sort()

/** What is at the end of the padding and the priority of a HEADERS frame. */
function blockOf(flags: number, payload: Buffer): Buffer {
  const padded = (flags & 0x8) === 0 ? 0 : 1
  const start = padded + ((flags & 0x20) === 0 ? 0 : 5)
  return payload.subarray(start, payload.length - (padded === 0 ? 0 : payload[0]!))
}

/** A server that hears the header blocks of node's client, and answers each with :status 200. */
async function startListener(onBlock: (block: Buffer) => void): Promise<{ port: number; close(): void }> {
  const sockets = new Set<Socket>()
  const server = createRawServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.write(frame(frames.settings, 0, 0))
    let rest = Buffer.alloc(0)
    let prefaced = false
    let block = Buffer.alloc(0)
    socket.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk])
      if (!prefaced) {
        if (rest.length < connectionPreface) return
        rest = rest.subarray(connectionPreface)
        prefaced = true
      }
      while (rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
        const [type, flags, stream] = [rest[3]!, rest[4]!, rest.readUInt32BE(5)]
        const payload = rest.subarray(9, 9 + rest.readUIntBE(0, 3))
        rest = rest.subarray(9 + payload.length)
        if (type === frames.settings && (flags & 1) === 0) socket.write(frame(frames.settings, 1, 0))
        if (type === frames.headers) block = Buffer.from(blockOf(flags, payload))
        if (type === frames.continuation) block = Buffer.concat([block, payload])
        if ((type !== frames.headers && type !== frames.continuation) || (flags & endHeaders) === 0) continue
        onBlock(block)
        socket.write(frame(frames.headers, endHeaders | endStream, stream, index(8)))
      }
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    close: () => {
      for (const socket of sockets) socket.destroy()
      server.close()
    },
  }
}

t.test("what node's client writes is read as what it was asked to send", async t => {
  const decoder = new HpackDecoder(4096)
  let read: unknown
  const listener = await startListener(block => {
    const decoded = decoder.decode(block, 0, block.length, limits)
    read = decoded && { fields: sorted(decoder.fields), sensitive: [...(decoder.sensitive ?? [])].sort(), malformed: decoder.malformed }
  })
  const session = connect(`http://127.0.0.1:${listener.port}`)
  t.teardown(() => {
    session.destroy()
    listener.close()
  })
  await fc.assert(
    fc.asyncProperty(list, fc.boolean(), fc.nat(), async (pairs, secretive, chosen) => {
      const pseudo = { ':method': 'POST', ':scheme': 'http', ':authority': 'api', ':path': '/p' }
      const secrets = secretive && pairs.length > 0 ? [pairs[chosen % pairs.length]![0]] : []
      const stream = session.request({ ...pseudo, ...Object.fromEntries(pairs), [sensitiveHeaders]: secrets })
      stream.resume()
      stream.end()
      await new Promise(resolve => stream.once('close', resolve))
      const sent = [...Object.entries(pseudo), ...pairs].flat()
      if (JSON.stringify(read) !== JSON.stringify({ fields: sorted(sent), sensitive: secrets, malformed: false }))
        throw new Error(`${JSON.stringify(sent)} was read as ${JSON.stringify(read)}`)
    }),
    { numRuns: deep ? 2000 : 300 },
  )
})

async function startServer(onList: (flat: string[], headers: IncomingHttpHeaders) => void) {
  const server = createServer({ maxSessionMemory: 100, settings: { maxHeaderListSize: 1 << 20 } })
  server.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, _flags: number, flat: string[]) => {
    stream.on('error', () => {})
    onList(flat, headers)
    stream.respond({ ':status': 200 }, { endStream: true })
  })
  server.on('sessionError', () => {})
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return { server, port: (server.address() as AddressInfo).port }
}

t.test('what we write is read by node as the list that we had, whatever size it wants the table to be', async t => {
  const arrived: { fields: string[]; sensitive: string[] }[] = []
  const { server, port } = await startServer((flat, headers) => {
    arrived.push({ fields: [...flat], sensitive: headers[sensitiveHeaders as never] as string[] })
  })
  const opened = new Promise<ServerHttp2Session>(resolve => server.once('session', resolve))
  const client = new RawClient(port)
  t.teardown(() => {
    client.socket.destroy()
    server.close()
  })
  const session = await opened
  const encoder = new HpackEncoder()
  let stream = 1
  let obeyed = 0
  const obey = () => {
    const settings = client.heard.filter(each => each.type === frames.settings && (each.flags & 1) === 0)
    for (const { payload } of settings.slice(obeyed))
      for (let at = 0; at < payload.length; at += 6) if (payload.readUInt16BE(at) === 1) encoder.setTableBytes(payload.readUInt32BE(at + 2))
    obeyed = settings.length
  }
  await fc.assert(
    fc.asyncProperty(
      list,
      fc.option(fc.constantFrom(0, 100, 1000, 4096, 10_000), { freq: 5 }),
      fc.boolean(),
      async (pairs, size, secretive) => {
        if (size !== null) await new Promise<void>(resolve => session.settings({ headerTableSize: size }, () => resolve()))
        obey()
        const fields = [':method', 'POST', ':scheme', 'http', ':path', '/p', ':authority', 'api', ...pairs.flat()]
        const secrets = new Set(secretive && pairs.length > 0 ? [pairs[0]![0]] : [])
        for (let time = 0; time < 3; time++) {
          const block = Buffer.alloc(encoder.bound(fields))
          const end = encoder.encode(fields, secrets, block, 0)
          // Frames have up to 16 KiB.
          const parts = [block.subarray(0, Math.min(end, 16_384)), block.subarray(Math.min(end, 16_384), end)]
          client.send(
            frame(frames.headers, endStream | (parts[1]!.length === 0 ? endHeaders : 0), stream, parts[0]),
            ...(parts[1]!.length === 0 ? [] : [frame(frames.continuation, endHeaders, stream, parts[1])]),
          )
          stream += 2
          await until('the list', async () => arrived.length > 0 || client.closed, 15_000, 0)
          const got = arrived.shift()
          if (JSON.stringify(got) !== JSON.stringify({ fields, sensitive: [...secrets] }))
            throw new Error(`${JSON.stringify(fields)} arrived as ${JSON.stringify(got)}`)
        }
      },
    ),
    { numRuns: deep ? 1000 : 100 },
  )
})

const kind = fc.constantFrom<Literal>('inserting', 'plain', 'never')
const content = fc.oneof(
  value,
  fc.string({ unit: 'binary', maxLength: 6 }).map(each => Buffer.from(each).toString('latin1')),
)
const string = fc.tuple(content, fc.boolean()).map(([each, coded]) => (coded ? huffman(each) : text(each)))
const representation = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 66 }).map(index) },
  {
    weight: 4,
    arbitrary: fc.tuple(kind, fc.oneof(string, name.map(text), fc.integer({ min: 1, max: 66 })), string).map(parts => literal(...parts)),
  },
  { weight: 1, arbitrary: fc.nat(4200).map(sizeUpdate) },
)
const hostile = fc
  .tuple(fc.array(representation, { minLength: 1, maxLength: 6 }), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 2 }), fc.nat(3))
  .map(([parts, changes, cut]) => {
    const block = Buffer.concat(parts)
    for (const [at, octet] of changes) block[at % block.length] = octet
    return cut === 0 ? block.subarray(0, -1) : block
  })

t.test('a block is a fault for node if and only if it is one for us', async t => {
  const { server, port } = await startServer(() => {})
  t.teardown(() => server.close())
  const pseudo = hex('83 86 84 41 03 61 70 69')
  let faulty = 0
  await fc.assert(
    fc.asyncProperty(hostile, async rest => {
      const block = Buffer.concat([pseudo, rest])
      const client = new RawClient(port)
      client.send(frame(frames.headers, endHeaders | endStream, 1, block), frame(frames.ping, 0, 0, Buffer.alloc(8)))
      const answered = () => client.goaway !== undefined || client.closed || client.heard.some(each => each.type === frames.ping)
      await until('an answer', async () => answered(), 15_000, 0)
      client.socket.destroy()
      const theirs = client.goaway === compressionError
      const ours = !new HpackDecoder(4096).decode(block, 0, block.length, limits)
      if (ours) faulty += 1
      if (ours !== theirs) throw new Error(`${block.toString('hex')}: ours ${ours}, theirs ${theirs}, goaway ${client.goaway}`)
    }),
    { numRuns: deep ? 2000 : 300 },
  )
  t.ok(faulty > 0)
})
