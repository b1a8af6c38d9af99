/** What operators are told when a token cannot be made or spent, and what stays behind. */
import { createServer } from 'node:net'
import t, { type Test } from 'tap'
import { MeshError } from '../../../src/lib/errors.ts'
import { decodeToken, encodeToken, type PeeringToken } from '../../../src/mesh/peering-token.ts'
import { Cluster, peer, until } from './cluster.ts'

async function clusters<const N extends string[]>(t: Test, ...names: N): Promise<{ [K in keyof N]: Cluster }> {
  const made = await Promise.all(names.map(name => Cluster.start(name)))
  t.teardown(() => Promise.all(made.map(cluster => cluster.close())))
  return made as { [K in keyof N]: Cluster }
}

async function errorOf(work: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await work
  } catch (error) {
    if (error instanceof MeshError) return { code: error.code, message: error.message }
    throw error
  }
  throw new Error('it did not fail')
}

function read(token: string): PeeringToken {
  const decoded = decodeToken(token)
  if (!decoded.ok) throw new Error(decoded.message)
  return decoded.token
}

/** A port on which nothing listens. */
async function deadPort(): Promise<number> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise(resolve => server.close(resolve))
  return port
}

const nameRule =
  "is not a valid peer name: a valid peering name must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character"

void t.test('tokens that cannot be made', async t => {
  const [east] = await clusters(t, 'east')
  const generate = (request: Partial<Parameters<typeof east.peerings.generateToken>[0]>) =>
    errorOf(east.peerings.generateToken({ peerName: 'p', ...request }))
  t.same(await generate({ peerName: '' }), {
    code: 'bad-request',
    message: 'PeerName is required in the payload when generating a new peering token.',
  })
  t.same(await generate({ peerName: 'P1' }), { code: 'invalid', message: `P1 ${nameRule}` })
  t.same(await generate({ partition: 'blue' }), { code: 'invalid', message: 'Partitions are a Consul Enterprise feature' })
  t.same(await generate({ meta: { 'consul-x': 'y' } }), {
    code: 'invalid',
    message:
      "meta tags failed validation: Couldn't load metadata pair ('consul-x', 'y'): Key prefix 'consul-' is reserved for internal use",
  })
  await east.configEntries.write({ kind: 'mesh', peering: { peerThroughMeshGateways: true } } as never)
  t.same(await generate({}), {
    code: 'invalid',
    message: 'servers are configured to PeerThroughMeshGateways, but no mesh gateway instances are registered',
  })
  await east.register('g', 'gw', 'mesh-gateway', 'passing', { kind: 'mesh-gateway', address: '10.0.0.9', port: 8443 })
  t.same(read(await east.peerings.generateToken({ peerName: 'p', partition: 'default' })).serverAddresses, ['10.0.0.9:8443'])
})

void t.test('what is switched off is said so', async t => {
  const enabled = { peering: true, connect: true, grpcTls: true }
  const messages = {
    peering: 'peering must be enabled to use this endpoint',
    connect: "connect.enabled must be set to true in the server's configuration when generating peering tokens",
    grpcTls: 'TLS for gRPC must be enabled when generating peering tokens',
  }
  for (const [what, message] of Object.entries(messages)) {
    const cluster = await Cluster.start('east', { enabled: { ...enabled, [what]: false } })
    t.same(await errorOf(cluster.peerings.generateToken({ peerName: 'p' })), { code: 'invalid', message })
    await cluster.close()
  }
})

void t.test('a token carries what a dialer needs, and repeating it keeps the peering', async t => {
  const [east] = await clusters(t, 'east')
  const first = read(await east.peerings.generateToken({ peerName: 'p', meta: { a: 'b' }, serverExternalAddresses: ['x.example:1'] }))
  t.match(first, {
    manualServerAddresses: ['x.example:1'],
    serverAddresses: [`127.0.0.1:${east.door!.port}`],
    serverName: `server.east.peering.${east.ca.trustDomain}`,
    remote: { partition: '', datacenter: 'east' },
  })
  const before = east.peerings.read('p').value!
  const second = read(await east.peerings.generateToken({ peerName: 'p', meta: { other: 'meta' } }))
  const after = east.peerings.read('P').value!
  t.equal(second.peerId, first.peerId)
  t.not(second.establishmentSecret, first.establishmentSecret)
  t.same(after.meta, { a: 'b' })
  t.ok(after.modifyIndex > before.modifyIndex)
})

void t.test('tokens that cannot be spent', async t => {
  const [east, west] = await clusters(t, 'east', 'west')
  const good = await east.peerings.generateToken({ peerName: 'west' })
  const establish = (request: { peerName?: string; peeringToken?: string }, cluster = west) =>
    errorOf(cluster.peerings.establish({ peerName: 'east', peeringToken: good, ...request }))
  t.same(await establish({ peerName: '' }), {
    code: 'bad-request',
    message: 'PeerName is required in the payload when establishing a peering.',
  })
  t.same(await establish({ peeringToken: '' }), {
    code: 'bad-request',
    message: 'PeeringToken is required in the payload when establishing a peering.',
  })
  t.same(await establish({ peeringToken: '@@@@' }), {
    code: 'invalid',
    message: 'failed to decode token: illegal base64 data at input byte 0',
  })
  t.match(await establish({ peerName: 'east' }, east), {
    code: 'invalid',
    message: `cannot create a peering within the same cluster "server.east.peering.${east.ca.trustDomain}". Refer to`,
  })
  t.match(await establish({ peeringToken: encodeToken({ ...read(good), ca: [] }) }), {
    code: 'invalid',
    message: /peering\.allow_plaintext/,
  })
  await west.peerings.generateToken({ peerName: 'taken' })
  t.same(await establish({ peerName: 'taken' }), {
    code: 'invalid',
    message: 'cannot create peering with name: "taken"; there is an existing peering expecting to be dialed',
  })
  t.equal(west.peerings.read('east').value, undefined, 'nothing is left behind by any of these')
})

void t.test('a refused secret answers at once and leaves a pending peering with what the token says', async t => {
  const [east, west] = await clusters(t, 'east', 'west')
  const old = await east.peerings.generateToken({ peerName: 'west' })
  await east.peerings.generateToken({ peerName: 'west' })
  const start = performance.now()
  t.same(await errorOf(west.peerings.establish({ peerName: 'east', peeringToken: old })), {
    code: 'permission-denied',
    message: 'a new peering token must be generated: invalid peering establishment secret',
  })
  t.ok(performance.now() - start < 1000)
  t.match(west.peerings.read('east').value, { state: 'PENDING', peerId: read(old).peerId, remote: { datacenter: 'east' } })
  await peer(east, west)
})

void t.test('an acceptor that is not there is tried for three seconds, and every attempt is told; so is one with another name', async t => {
  const [west] = await clusters(t, 'west')
  const [east] = await clusters(t, 'east')
  const address = `127.0.0.1:${await deadPort()}`
  const token = { ...read(await east.peerings.generateToken({ peerName: 'west' })), serverAddresses: [address] }
  // Beside it, to save three seconds: a server at the right address with the wrong name is not told the secret.
  const thief = encodeToken({ ...token, serverAddresses: [`127.0.0.1:${west.door!.port}`] })
  const start = performance.now()
  const [error, wrongName] = await Promise.all([
    errorOf(west.peerings.establish({ peerName: 'east', peeringToken: encodeToken(token) })),
    errorOf(west.peerings.establish({ peerName: 'thief', peeringToken: thief })),
  ])
  const took = performance.now() - start
  t.ok(took > 2500 && took < 4000, `${took}`)
  t.same([error.code, wrongName.code], ['unavailable', 'unavailable'])
  const [head, ...lines] = error.message.trimEnd().split('\n')
  t.match(head, /^\d\d errors occurred:$/)
  t.equal(`${lines.length} errors occurred:`, head)
  const line = `\t* failed to exchange peering secret through address "${address}": rpc error: code = Unavailable desc = `
  for (const each of lines) t.equal(each.slice(0, line.length), line)
})

void t.test('the next address is tried when one is dead', async t => {
  const [east, west] = await clusters(t, 'east', 'west')
  const token = read(await east.peerings.generateToken({ peerName: 'west' }))
  const manualServerAddresses = [`127.0.0.1:${await deadPort()}`, `127.0.0.1:${east.door!.port}`]
  await west.peerings.establish({ peerName: 'east', peeringToken: encodeToken({ ...token, manualServerAddresses }) })
  await until(() => west.state('east') === 'ACTIVE')
})

void t.test('a plaintext token is taken where it is allowed, and turns to TLS with the first trust bundle', async t => {
  const [east] = await clusters(t, 'east')
  const west = await Cluster.start('west', { allowPlaintext: true })
  t.teardown(() => west.close())
  const token = read(await east.peerings.generateToken({ peerName: 'west' }))
  const plain = { ...token, ca: [], serverAddresses: [`127.0.0.1:${east.door!.plaintextPort}`] }
  await west.peerings.establish({ peerName: 'east', peeringToken: encodeToken(plain) })
  await until(() => west.state('east') === 'ACTIVE' && west.tables.trustBundle('east').value !== undefined)
  await until(() => west.peerings.read('east').value?.peerServerAddresses?.[0] === `127.0.0.1:${east.door!.port}`)
  await east.stop()
  await east.start()
  await until(() => west.state('east') === 'ACTIVE')
})

void t.test('re-establishing a running peering takes the new secret, and a bad token disturbs nothing', async t => {
  const [east, west] = await clusters(t, 'east', 'west')
  await east.register('n', 'web-1', 'web')
  await east.export({ web: ['west'] })
  const spent = await east.peerings.generateToken({ peerName: 'west' })
  await west.peerings.establish({ peerName: 'east', peeringToken: spent })
  await until(() => west.imported('web', 'east').length === 1 && west.state('east') === 'ACTIVE')
  t.match(await errorOf(west.peerings.establish({ peerName: 'east', peeringToken: spent })), { code: 'permission-denied' })
  t.equal(west.state('east'), 'ACTIVE')
  const id = west.peerings.read('east').value?.id
  await peer(east, west)
  t.equal(west.peerings.read('east').value?.id, id)
  await east.register('n', 'web-2', 'web')
  await until(() => west.imported('web', 'east').length === 2)
})

void t.test('deleting what is not there is no error, and what is being deleted takes no writes', async t => {
  const [east] = await clusters(t, 'east')
  await east.peerings.delete('nobody')
  await east.peerings.generateToken({ peerName: 'p' })
  const deleting = east.peerings.delete('p')
  await deleting
  if (east.state('p') === 'DELETING') {
    t.same(await errorOf(east.peerings.generateToken({ peerName: 'p' })), {
      code: 'invalid',
      message: 'cannot write to peering that is marked for deletion',
    })
  }
  await until(() => east.state('p') === undefined)
  t.same(east.peerings.list().value, [])
})
