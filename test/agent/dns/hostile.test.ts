// Clients and catalogs that mean harm: each attack has its name. Nothing may crash, hang, pile up or answer more than it was sent for.
import * as fc from 'fast-check'
import { createSocket } from 'node:dgram'
import { connect } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t, { type Test } from 'tap'
import { tcpLimits } from '../../../src/agent/dns/tcp.ts'
import { askTcp, askUdp, dig, digQuery, framed } from './client.ts'
import { fillAlpha, startScene, type DnsScene } from './golden-catalog.ts'
import { startRecursor } from './recursor.ts'

const runs = process.env['ISTHMUS_DEEP'] === '1' ? 50_000 : 2_000

async function scene(t: Test, flags: Record<string, unknown> = {}): Promise<DnsScene> {
  const made = await startScene('dc1', flags)
  t.teardown(() => made.close())
  return made
}

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void
function usedBytes(): number {
  collectGarbage()
  const { heapUsed, external, arrayBuffers } = process.memoryUsage()
  return heapUsed + external + arrayBuffers
}

/** Sends a message and then a question whose answer shows that the door is past it; gives back what came in between. */
async function probe(port: number) {
  const socket = createSocket('udp4')
  await new Promise<void>(resolve => socket.connect(port, '127.0.0.1', resolve))
  let replies: Buffer[] = []
  let onReply = () => {}
  socket.on('message', reply => {
    replies.push(reply)
    onReply()
  })
  return {
    async send(message: Buffer): Promise<Buffer[]> {
      replies = []
      const end = digQuery('web.service.consul', 'A')
      socket.send(message)
      socket.send(end)
      while (!replies.some(reply => reply.subarray(0, 2).equals(end.subarray(0, 2)) && reply.length > 60)) {
        await new Promise<void>((resolve, reject) => {
          const timer = setTimeout(() => reject(new Error('the door went silent')), 5000)
          onReply = () => {
            clearTimeout(timer)
            resolve()
          }
        })
      }
      return replies.slice(0, -1)
    },
    close: () => new Promise<void>(resolve => socket.close(() => resolve())),
  }
}

void t.test('random datagrams get a bare FORMERR or NOTIMP, or silence, and memory stays flat', async t => {
  const made = await scene(t)
  await fillAlpha(made)
  const prober = await probe(made.door.port)
  t.teardown(() => prober.close())
  const property = fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 512 }), async bytes => {
    const replies = await prober.send(Buffer.from(bytes))
    return replies.length <= 1 && replies.every(reply => reply.length === 12 && [1, 4].includes(reply[3]! & 0x0f))
  })
  await fc.assert(property, { numRuns: runs / 2 })
  const before = usedBytes()
  await fc.assert(property, { numRuns: runs / 2 })
  t.ok(usedBytes() - before < 8_000_000, 'memory is flat')
})

void t.test('queries with flipped bytes are answered at most once, and never with more than plain UDP may carry', async t => {
  const made = await scene(t)
  await fillAlpha(made)
  const prober = await probe(made.door.port)
  t.teardown(() => prober.close())
  const names = [
    'web.service.consul',
    '_web._tcp.consul',
    'alpha.node.consul',
    '7f000001.addr.consul',
    'big.service.consul',
    '1.0.0.127.in-addr.arpa',
  ]
  const types = ['A', 'SRV', 'TXT', 'SOA', 'NS', 'PTR']
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...names),
      fc.constantFrom(...types),
      fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 4 }),
      async (name, type, flips) => {
        const message = digQuery(name, type)
        for (const [at, value] of flips) message[2 + (at % (message.length - 2))] = value
        const replies = await prober.send(message)
        return replies.length <= 1 && replies.every(reply => reply.length <= 512)
      },
    ),
    { numRuns: runs },
  )
  t.pass(`${runs} runs`)
})

void t.test('a forged source is never sent more than 4,096 bytes, whatever EDNS size it claims', async t => {
  const { catalog, door } = await scene(t)
  for (let i = 0; i < 400; i++) {
    const address = `10.1.${i >> 8}.${i & 255}`
    await catalog.register({ node: 'n1', address: '127.0.0.1', service: { id: `s${i}`, service: 'crowd', address, port: i } })
  }
  const reply = await dig(door.port, 'crowd.service.consul', 'SRV', ['+edns', '+bufsize=65535'])
  t.ok(reply.size <= 4096 && reply.answer.length > 50, `${reply.size} bytes`)
  t.equal((await dig(door.port, 'crowd.service.consul', 'SRV', ['+tcp'])).answer.length, 400, 'TCP has them all')
})

void t.test('metadata of a node cannot blow up a datagram', async t => {
  const { catalog, door } = await scene(t)
  const nodeMeta = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`key-${i}`, 'x'.repeat(500)]))
  await catalog.register({ node: 'fat', address: '10.0.0.1', nodeMeta, service: { id: 'web', service: 'web', port: 80 } })
  for (const [name, type] of [
    ['fat.node.consul', 'A'],
    ['fat.node.consul', 'AAAA'],
    ['fat.node.consul', 'TXT'],
    ['web.service.consul', 'SRV'],
  ] as const) {
    const reply = await dig(door.port, name, type)
    t.ok(reply.size <= 512, `${name} ${type}: ${reply.size}`)
    t.equal(reply.flags.includes('tc'), type === 'TXT', 'TC where nothing is left of the answer')
  }
  t.equal((await dig(door.port, 'fat.node.consul', 'TXT', ['+tcp'])).answer.length, 60)
})

void t.test('services that point at each other end', async t => {
  const { catalog, door } = await scene(t)
  const point = (from: string, to: string, i = 0) =>
    catalog.register({ node: 'n1', address: 'n1.node.consul', service: { id: `${from}-${i}`, service: from, address: to, port: 80 + i } })
  await point('a', 'b.service.consul')
  await point('b', 'a.service.consul')
  await point('self', 'self.service.consul')
  // Each of ten instances names a service of ten instances, and so on: followed to the end it would be thousands of look-ups.
  for (let i = 0; i < 10; i++)
    for (const [from, to] of [
      ['w', 'x'],
      ['x', 'y'],
      ['y', 'z'],
    ] as const)
      await point(from, `${to}.service.consul`, i)
  for (const name of ['a', 'self', 'w']) {
    for (const type of ['A', 'SRV']) t.equal((await dig(door.port, `${name}.service.consul`, type)).rcode, 'NOERROR', `${name} ${type}`)
  }
})

void t.test('names of the catalog that are no DNS names do no harm', async t => {
  const { catalog, door } = await scene(t)
  const node = 'x'.repeat(100)
  await catalog.register({ node, address: '10.0.0.9', service: { id: 'consul', service: 'consul', port: 8300 } })
  await catalog.register({
    node: 'constructor',
    address: '10.0.0.8',
    service: { id: '__proto__', service: '__proto__', address: 'a..b', port: 1 },
  })
  t.same((await dig(door.port, 'consul.service.consul', 'SRV')).answer, [], 'a target that cannot be written')
  t.same((await dig(door.port, 'consul', 'NS')).answer, [])
  t.equal((await dig(door.port, '__proto__.service.consul', 'A')).rcode, 'NOERROR')
  t.equal((await dig(door.port, 'toString.service.consul', 'A')).rcode, 'NXDOMAIN')
  t.same((await dig(door.port, 'constructor.node.consul', 'A')).answer, ['constructor.node.consul. 0 A 10.0.0.8'])
})

void t.test(
  'a flood of foreign names with a recursor that is silent takes a bounded number of sockets, and ours are answered meanwhile',
  async t => {
    const recursor = await startRecursor(() => undefined)
    t.teardown(() => recursor.close())
    const { door } = await scene(t, { recursors: [`127.0.0.1:${recursor.port}`], dns_config: { recursor_timeout: '30s' } })
    const socket = createSocket('udp4')
    t.teardown(() => new Promise<void>(resolve => socket.close(() => resolve())))
    let failed = 0
    socket.on('message', reply => (failed += (reply[3]! & 0x0f) === 2 ? 1 : 0))
    for (let i = 0; i < 400; i++) {
      socket.send(digQuery(`n${i}.example.com`, 'A'), door.port, '127.0.0.1')
      if (i % 20 === 0) await dig(door.port, 'nope.service.consul', 'A')
    }
    t.equal((await dig(door.port, 'nope.service.consul', 'A')).rcode, 'NXDOMAIN')
    await new Promise(resolve => setTimeout(resolve, 50))
    t.equal(failed, 400 - 256, 'the rest is told SERVFAIL at once')
  },
)

void t.test('a response is never answered, so two servers cannot be made to talk to each other', async t => {
  const { door } = await scene(t)
  const message = digQuery('web.service.consul', 'A')
  message[2]! |= 0x80
  t.equal(await askUdp(door.port, message, 200), undefined)
})

void t.test('over TCP, questions in one segment or byte by byte are answered in order', async t => {
  const made = await scene(t)
  await fillAlpha(made)
  const queries = Array.from({ length: 50 }, (_, i) => digQuery(i % 2 ? 'web.service.consul' : 'nope.service.consul', 'A'))
  const bytes = Buffer.concat(queries.map(framed))
  const replies = await askTcp(made.door.port, bytes, queries.length)
  t.same(
    replies.map(each => each.readUInt16BE(0)),
    queries.map(each => each.readUInt16BE(0)),
  )
  const socket = connect({ port: made.door.port, host: '127.0.0.1', noDelay: true })
  t.teardown(() => socket.destroy())
  const reply = new Promise<Buffer>(resolve => socket.once('data', resolve))
  for (const byte of framed(queries[1]!)) {
    socket.write(Buffer.from([byte]))
    await new Promise(resolve => setImmediate(resolve))
  }
  t.equal((await reply).readUInt16BE(2), queries[1]!.readUInt16BE(0))
})

void t.test('over TCP, a client that closes its half still gets its answers', async t => {
  const { door } = await scene(t)
  const socket = connect({ port: door.port, host: '127.0.0.1', allowHalfOpen: true })
  const chunks: Buffer[] = []
  socket.on('data', chunk => chunks.push(chunk))
  socket.end(framed(digQuery('nope.service.consul', 'A')))
  await new Promise<void>(resolve => socket.on('end', () => resolve()))
  t.equal(Buffer.concat(chunks)[5]! & 0x0f, 3)
})

void t.test('over TCP, a message longer than a query can be ends the connection', async t => {
  const { door } = await scene(t)
  t.same(await askTcp(door.port, Buffer.from([0xff, 0xff, 0, 0])), [])
})

void t.test('over TCP, random bytes never get more than bare refusals', async t => {
  const { door } = await scene(t)
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), async bytes => {
      const replies = await askTcp(door.port, Buffer.concat([framed(Buffer.from(bytes)), Buffer.from([0xff, 0xff])]), 2)
      return replies.length <= 1 && replies.every(reply => reply.length === 12)
    }),
    { numRuns: runs / 10 },
  )
  t.pass(`${runs / 10} runs`)
})

void t.test('one address cannot take every TCP connection', async t => {
  const { door } = await scene(t)
  const sockets = Array.from({ length: tcpLimits.maxConnectionsPerAddress + 20 }, () => connect(door.port, '127.0.0.1'))
  t.teardown(() => sockets.forEach(each => each.destroy()))
  for (const socket of sockets) socket.on('error', () => {})
  const ended = () => sockets.filter(each => each.closed).length
  while (ended() < 20) await new Promise(resolve => setTimeout(resolve, 5))
  await new Promise(resolve => setTimeout(resolve, 50))
  t.equal(ended(), 20)
  sockets.find(each => !each.destroyed)!.destroy()
  await new Promise(resolve => setTimeout(resolve, 50))
  t.equal((await dig(door.port, 'nope.service.consul', 'A', ['+tcp'])).rcode, 'NXDOMAIN', 'a place that was given up is free again')
})
