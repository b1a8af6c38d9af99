/** The gRPC door: who gets in, what is served, and what a change of certificate does to those who are in. */
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { decodeToken } from '../../../src/mesh/peering-token.ts'
import { peeringServerName } from '../../../src/mesh/sni.ts'
import { serverId } from '../../../src/mesh/spiffe.ts'
import { ExportedService } from '../../../src/wire/gen/peerstream.ts'
import { heartbeat, typeUrls, upsert } from '../../../src/wire/peer-stream.ts'
import { Cluster, until } from '../peering/cluster.ts'
import { Caller, handshake } from './client.ts'

async function scene(t: Test) {
  const cluster = await Cluster.start('dc1')
  t.teardown(() => cluster.close())
  const serverName = peeringServerName('dc1', cluster.ca.trustDomain)
  const roots = () => cluster.ca.roots().value.roots.map(root => root.rootCert)
  const caller = (tls = true) => {
    const made = tls ? new Caller(cluster.door!.port, { roots: roots(), serverName }) : new Caller(cluster.door!.plaintextPort!)
    t.teardown(() => made.close())
    return made
  }
  const openStream = async (via: Caller) => {
    const decoded = decodeToken(await cluster.peerings.generateToken({ peerName: 'p' }))
    if (!decoded.ok) throw new Error(decoded.message)
    const { peerId, establishmentSecret } = decoded.token
    const answer = await via.exchange({ PeerID: peerId, EstablishmentSecret: establishmentSecret })
    if (!('secret' in answer)) throw new Error(answer.details)
    const stream = via.stream(
      { Payload: { $case: 'open', value: { PeerID: peerId, StreamSecretID: answer.secret, Remote: undefined } } },
      heartbeat,
    )
    await until(() => cluster.state('p') === 'ACTIVE')
    return stream
  }
  return { cluster, serverName, roots, caller, openStream }
}

void t.test('it negotiates h2 and shows the certificate of the peering name', async t => {
  const { cluster, serverName, roots } = await scene(t)
  const { alpn, subjectAltName } = await handshake(cluster.door!.port, { servername: serverName, ca: roots(), ALPNProtocols: ['h2'] })
  t.equal(alpn, 'h2')
  t.equal(subjectAltName, `DNS:${serverName}, URI:${serverId(cluster.ca.trustDomain, 'dc1')}`)
  t.equal((await handshake(cluster.door!.port, { servername: serverName, ca: roots() })).alpn, false)
})

void t.test('a client without ALPN is served', async t => {
  const { cluster, serverName, roots } = await scene(t)
  const { connect: tlsConnect } = await import('node:tls')
  const { connect: http2Connect } = await import('node:http2')
  const socket = tlsConnect({ host: '127.0.0.1', port: cluster.door!.port, servername: serverName, ca: roots() })
  await new Promise(resolve => socket.once('secureConnect', resolve))
  const session = http2Connect(`https://${serverName}`, { createConnection: () => socket })
  const path = '/hashicorp.consul.internal.peerstream.PeerStreamService/ExchangeSecret'
  const request = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' })
  request.end(Buffer.alloc(5))
  const headers = await new Promise<Record<string, unknown>>(resolve => {
    request.on('response', resolve)
  })
  t.equal(headers['grpc-status'] ?? '13', '13')
  session.destroy()
})

void t.test('over TLS and in plaintext the same two methods are there, and no other', async t => {
  const { caller } = await scene(t)
  for (const via of [caller(true), caller(false)]) {
    t.match(await via.exchange({ PeerID: 'x', EstablishmentSecret: '' }), { code: 13, details: /UUID/ })
    t.equal(await via.other('/hashicorp.consul.internal.peering.PeeringService/PeeringList'), 12)
    t.equal(await via.other('/grpc.health.v1.Health/Check'), 12)
  }
})

void t.test('a new certificate serves the next handshake and leaves the streams alone', async t => {
  const { cluster, serverName, roots, caller, openStream } = await scene(t)
  const oldRoots = roots()
  const stream = await openStream(caller())
  const look = () => handshake(cluster.door!.port, { servername: serverName, ca: oldRoots })
  const before = await look()
  await cluster.ca.rotate()
  const end = performance.now() + 5000
  let after = await look()
  while (after.fingerprint === before.fingerprint && performance.now() < end) after = await look()
  t.not(after.fingerprint, before.fingerprint, 'a dialer that holds only the old root still gets in')
  t.equal(stream.over, false)
  t.equal(cluster.state('p'), 'ACTIVE')
})

void t.test('bytes that are no gRPC do no harm', async t => {
  const { cluster, caller } = await scene(t)
  for (const port of [cluster.door!.port, cluster.door!.plaintextPort!]) {
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => undefined)
    socket.resume()
    socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
    await new Promise(resolve => socket.on('close', resolve))
    const rude = connect(port, '127.0.0.1')
    rude.on('error', () => undefined)
    await new Promise(resolve => rude.once('connect', resolve))
    rude.resetAndDestroy()
  }
  t.match(await caller().exchange({ PeerID: 'x', EstablishmentSecret: '' }), { code: 13 })
})

void t.test('an undecodable message ends its stream only', async t => {
  const { cluster, caller, openStream } = await scene(t)
  const via = caller()
  const stream = await openStream(via)
  const raw = via.client.makeBidiStreamRequest(
    '/hashicorp.consul.internal.peerstream.PeerStreamService/StreamResources',
    (bytes: Buffer) => bytes,
    (bytes: Buffer) => bytes,
  )
  raw.on('error', () => undefined)
  const ended = new Promise<{ code: number }>(resolve => {
    raw.on('status', resolve)
  })
  raw.on('data', () => undefined)
  raw.write(Buffer.from('ffffffffff', 'hex'))
  t.not((await ended).code, 0)
  t.equal(stream.over, false)
  t.equal(cluster.state('p'), 'ACTIVE')
})

void t.test('a service of nine megabytes is taken from a dialer', async t => {
  const { cluster, caller, openStream } = await scene(t)
  const stream = await openStream(caller())
  const tag = 'x'.repeat(1000)
  const nodes = Array.from({ length: 90 }, (_, i) => ({
    Node: { Node: `n${i}` },
    Service: { ID: `big-${i}`, Service: 'big', Tags: Array.from({ length: 100 }, () => tag) },
  }))
  const value = ExportedService.encode(ExportedService.fromPartial({ Nodes: nodes })).finish()
  t.ok(value.length > 9_000_000)
  stream.call.write(upsert(typeUrls.service, 'big', '00000001', value))
  await until(() => stream.received.some(({ Payload }) => Payload?.$case === 'request' && Payload.value.ResponseNonce !== ''), 8000)
  t.equal(cluster.tables.instances('big', 'p').value.length, 90)
})
