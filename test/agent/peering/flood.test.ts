/** Peers that send what is small on the wire and large in memory, or that never stop: neither memory, log nor event loop is theirs. */
import { Metadata } from '@grpc/grpc-js'
import t, { type Test } from 'tap'
import { decodeToken } from '../../../src/mesh/peering-token.ts'
import type { ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { messageLimits, peerStreamService, subscription, typeUrls, upsert } from '../../../src/wire/peer-stream.ts'
import { ExportedServiceList } from '../../../src/wire/gen/peerstream.ts'
import { Caller } from '../grpc/client.ts'
import { Cluster, until } from './cluster.ts'

async function scene(t: Test) {
  const cluster = await Cluster.start('dc1')
  const caller = new Caller(cluster.door!.plaintextPort!)
  t.teardown(async () => {
    caller.close()
    await cluster.close()
  })
  return { cluster, caller }
}

/** A peer of the name `p` that has opened its stream. */
async function opened(cluster: Cluster, caller: Caller) {
  const decoded = decodeToken(await cluster.peerings.generateToken({ peerName: 'p' }))
  if (!decoded.ok) throw new Error(decoded.message)
  const { peerId: PeerID, establishmentSecret: EstablishmentSecret } = decoded.token
  const answer = await caller.exchange({ PeerID, EstablishmentSecret })
  if (!('secret' in answer)) throw new Error(answer.details)
  const Remote = { Partition: '', Datacenter: 'fake', Locality: undefined }
  const open: ReplicationMessage = { Payload: { $case: 'open', value: { PeerID, StreamSecretID: answer.secret, Remote } } }
  const stream = caller.stream(open, subscription(typeUrls.service, PeerID), subscription(typeUrls.list, PeerID))
  await until(() => cluster.state('p') === 'ACTIVE')
  const refusals = () =>
    stream.received.flatMap(each => (each.Payload?.$case === 'request' ? (each.Payload.value.Error?.message ?? []) : []))
  return { stream, refusals }
}

/** The same two bytes over and over: the shortest field there is. */
function pairs(first: number, bytes: number): Buffer {
  return Buffer.alloc(bytes, Buffer.from([first, 0]))
}

function lengthDelimited(tag: number, body: Buffer): Buffer {
  const head = [tag]
  for (let rest = body.length; ; rest >>>= 7) {
    head.push(rest > 127 ? (rest & 127) | 128 : rest)
    if (rest <= 127) return Buffer.concat([Buffer.from(head), body])
  }
}

/** Bytes of heap and buffers that are held now, and how long the process was deaf at most meanwhile. */
async function watched(work: () => Promise<void>): Promise<{ grownBytes: number; deafMs: number }> {
  const before = process.memoryUsage.rss()
  let deafMs = 0
  let peak = before
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    deafMs = Math.max(deafMs, now - last - 5)
    last = now
    peak = Math.max(peak, process.memoryUsage.rss())
  }, 5)
  await work()
  await new Promise(resolve => setTimeout(resolve, 10))
  clearInterval(timer)
  return { grownBytes: peak - before, deafMs }
}

void t.test('a stranger cannot make gigabytes and half a minute out of one message', async t => {
  const { caller } = await scene(t)
  const bomb = pairs(0x78, messageLimits.received - 1024)
  const { grownBytes, deafMs } = await watched(async () => {
    const raw = (bytes: Buffer) => bytes
    const unary = new Promise<number | undefined>(resolve => {
      const { path } = peerStreamService.exchangeSecret
      caller.client.makeUnaryRequest(path, raw, raw, bomb, new Metadata(), error => resolve(error?.code))
    })
    t.equal(await unary, 13)
    const call = caller.client.makeBidiStreamRequest(peerStreamService.streamResources.path, raw, raw, new Metadata())
    call.on('error', () => undefined)
    call.on('data', () => undefined)
    const ended = new Promise<number>(resolve => call.on('status', ({ code }) => resolve(code)))
    call.write(bomb)
    t.equal(await ended, 13)
  })
  t.ok(deafMs < 1000, `deaf for ${Math.round(deafMs)} ms`)
  t.ok(grownBytes < 600e6, `grown by ${Math.round(grownBytes / 1e6)} MB`)
})

void t.test('a peer neither, with any resource, and its stream goes on', async t => {
  const { cluster, caller } = await scene(t)
  const { stream, refusals } = await opened(cluster, caller)
  const size = messageLimits.sent - 1024
  const bombs: [string, Buffer][] = [
    [typeUrls.service, pairs(0x0a, size)],
    [typeUrls.service, lengthDelimited(0x0a, pairs(0x1a, size))],
    [typeUrls.service, lengthDelimited(0x0a, lengthDelimited(0x12, pairs(0x22, size)))],
    [typeUrls.service, lengthDelimited(0x0a, lengthDelimited(0x12, lengthDelimited(0x5a, pairs(0x32, size))))],
    [typeUrls.list, pairs(0x0a, size)],
    [typeUrls.bundle, pairs(0x22, size)],
    [typeUrls.service, pairs(0x78, size)],
  ]
  for (const [i, [url, value]] of bombs.entries()) {
    const { deafMs } = await watched(async () => {
      stream.call.write(upsert(url, 'web', String(i + 1), value))
      await until(() => refusals().length === i + 1, 10_000)
    })
    t.match(refusals().at(-1), /failed to unmarshal resource: the message has too many fields/)
    t.ok(deafMs < 1500, `bomb ${i}: deaf for ${Math.round(deafMs)} ms`)
  }
  t.equal(cluster.state('p'), 'ACTIVE')
})

void t.test('enormous names are refused without being repeated or kept', async t => {
  const { cluster, caller } = await scene(t)
  const { stream, refusals } = await opened(cluster, caller)
  const huge = 'x'.repeat(4 * 1024 * 1024)
  const list = (...Services: string[]) => Buffer.from(ExportedServiceList.encode({ Services }).finish())
  stream.call.write(upsert(typeUrls.list, 'list', '1', list('web', huge)))
  stream.call.write(upsert(typeUrls.service, huge, '2', Buffer.alloc(0)))
  stream.call.write(upsert(huge, 'web', '3', Buffer.alloc(0)))
  stream.call.write(upsert(typeUrls.service, 'web', huge, Buffer.alloc(0)))
  const names = Array.from({ length: 100_000 }, (_, i) => `service-${i}`)
  stream.call.write(upsert(typeUrls.list, 'list', '5', list(...names)))
  await until(() => refusals().length === 5, 10_000)
  t.same(
    refusals().filter(text => text.length > 1000),
    [],
  )
  t.match(refusals().at(-1), /100000 services are more than the 10000 that a peer may export/)
  t.ok(JSON.stringify(cluster.peerings.read('p').value).length < 5000, 'what an operator reads stays small')
  t.equal(cluster.state('p'), 'ACTIVE')
})

void t.test('refusals without reason are kept short', async t => {
  const { cluster, caller } = await scene(t)
  const { stream } = await opened(cluster, caller)
  const request = {
    PeerID: '',
    ResponseNonce: 'n',
    ResourceURL: typeUrls.service,
    Error: { code: 3, message: 'y'.repeat(4 * 1024 * 1024), details: [] },
  }
  stream.call.write({ Payload: { $case: 'request', value: request } })
  await until(() => (cluster.peerings.read('p').value?.warnings ?? []).length > 0)
  t.ok(JSON.stringify(cluster.peerings.read('p').value).length < 5000)
})
