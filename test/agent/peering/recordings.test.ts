/**
 * Every recording of real Consul under test/golden/peering, played to us in both roles: in the place of Consul we must say what it
 * said, and in the place of its counterpart we must take all that it sent. Where we differ on purpose a line below says why, and
 * the test fails when the difference is gone.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { serverAddresses } from '../../../src/agent/peering/addresses.ts'
import { Exporter } from '../../../src/agent/peering/exporter.ts'
import { newSession, step, type Role } from '../../../src/agent/peering/session.ts'
import { PeeringServerAddresses } from '../../../src/wire/gen/peering.ts'
import { ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { recordedMessages, recordingLines, recordings } from '../../wire/recordings.ts'
import { Cluster, until } from './cluster.ts'
import { replay, withoutMark } from './replay.ts'

/** Whom real Consul was in a recording. In 04 and 06 it was first the one, then the other. */
function realRoles(file: string): Role[] {
  if (file.startsWith('03-')) return ['dialer']
  return file.startsWith('04-') || file.startsWith('06-') ? ['acceptor', 'dialer'] : ['acceptor']
}

/** Why we say something else, by file and role. */
const differences: Record<string, string> = {
  '02-fake-dialer--03-import-into-real-consul.json acceptor': 'a service under the name of another is refused (session.test.ts)',
  '02-fake-dialer--04-heartbeat-timeout.json acceptor': 'our last heartbeat leaves in the moment of the end (session.test.ts)',
  '03-fake-acceptor--04-message-size.json dialer': 'it acknowledges messages that are too large for a recording',
  '04-errors--importer-panics.json acceptor': 'a stream that begins as the dialer and is answered by a panic: nothing to compare with',
  '04-errors--importer-panics.json dialer': 'real Consul crashes where we refuse',
}

/** What `all` has beyond `others`, each as often as it has it more. */
function beyond(all: string[], others: string[]): string[] {
  const left = [...others]
  return all.filter(line => {
    const at = left.indexOf(line)
    if (at >= 0) left.splice(at, 1)
    return at < 0
  })
}

t.test('in the place of real Consul we say what it said', async t => {
  let compared = 0
  const differed = new Set<string>()
  for (const file of recordings()) {
    for (const role of realRoles(file)) {
      for (const { name, ours, theirs } of replay(file, role)) {
        const difference = { more: beyond(ours, theirs), less: beyond(theirs, ours) }
        if (differences[`${file} ${role}`] === undefined) t.same(difference, { more: [], less: [] }, `${name} as ${role}`)
        else if (difference.more.length + difference.less.length > 0) differed.add(`${file} ${role}`)
        compared += 1
      }
    }
  }
  t.ok(compared >= 20, `${compared} streams`)
  t.same([...differed].sort(), Object.keys(differences).sort(), 'every listed difference is there')
})

t.test('in the place of its counterpart we take all that real Consul sent, and stay', async t => {
  let taken = 0
  for (const file of recordings()) {
    for (const real of realRoles(file)) {
      const role = real === 'acceptor' ? 'dialer' : 'acceptor'
      const sentByReal = new Set(
        recordedMessages(file)
          .filter(({ dir, message }) => dir.startsWith(real) && message.Payload?.$case === 'response')
          .map(({ message }) => (message.Payload?.$case === 'response' ? message.Payload.value.ResourceURL : '')),
      )
      // In 02/03 and 04 the fake side sends what is broken on purpose; nothing of it is for this role to say or to take.
      if (sentByReal.size === 0 || file.startsWith('02-fake-dialer--03') || file.startsWith('04-')) continue
      for (const { name, ours, closed, changes } of replay(file, role)) {
        const refusals = ours.filter(line => /upsert error|unsupported operation|received (?:upsert )?response/.test(line))
        // Real Consul, asked for it, gives its addresses to an acceptor too, and NACKs them itself (5.1).
        t.same(
          refusals.filter(line => !line.includes('Cannot switch peering dialing mode')),
          [],
          `${name} as ${role}`,
        )
        t.notOk(closed && closed.code !== 0 && closed.message !== 'heartbeat timeout', `${name} as ${role} stays: ${closed?.message}`)
        taken += changes.length
      }
    }
  }
  t.ok(taken > 30, `${taken} resources were taken`)
})

t.test('every stream that real Consul dialled begins with the same bytes as ours, but for our mark', async t => {
  let begun = 0
  for (const file of recordings().filter(each => realRoles(each).includes('dialer'))) {
    const lines = recordedMessages(file).filter(({ dir }) => dir === 'dialer->acceptor')
    for (const [i, { message }] of lines.entries()) {
      if (message.Payload?.$case !== 'open') continue
      const { PeerID: peerId, StreamSecretID: streamSecret, Remote } = message.Payload.value
      const theirs = lines.slice(i, i + 5)
      // Two streams in one moment are mixed in the recording; in 04 the recorder opens some itself, and subscribes as it likes.
      if (theirs.slice(1).some(each => each.message.Payload?.$case !== 'request') || !file.startsWith('0') || file.startsWith('04'))
        continue
      const remote = { partition: Remote!.Partition, datacenter: Remote!.Datacenter }
      const now = { monoMs: 0, wallMs: 0 }
      const session = newSession({ role: 'dialer', peerId, peerName: 'p', streamSecret, remote }, now)
      const [, effects] = step(session, { type: 'opened' }, now)
      const ours = effects.flatMap(each => (each.type === 'send' ? [hex(withoutMark(each.message))] : []))
      t.same(
        ours,
        theirs.map(each => each.hex),
        `${file} ${i}`,
      )
      begun += 1
    }
  }
  t.ok(begun >= 15, `${begun} streams`)
})

const hex = (message: ReplicationMessage) => Buffer.from(ReplicationMessage.encode(message).finish()).toString('hex')

/** The server addresses that real Consul sent, in order, and how they were encoded. */
const sentAddresses = (file: string) =>
  recordedMessages(file).flatMap(({ message }) => {
    const value = message.Payload?.$case === 'response' && message.Payload.value
    return value && value.ResourceID === 'server-addrs' ? [PeeringServerAddresses.decode(value.Resource!.value).Addresses] : []
  })

t.test('a second server: tokens and streams name both, in the recorded order', async t => {
  const east = await Cluster.start('dc1', { addresses: () => ['127.0.1.1:21103'] })
  t.teardown(() => east.close())
  const file = '02-fake-dialer--05-follower-and-leader-change.json'
  const server = (node: string, port: string) =>
    east.catalog.register({
      node,
      address: '127.0.3.1',
      taggedAddresses: { wan: node === 'dc1-server' ? '127.0.1.1' : '127.0.3.1' },
      service: { id: 'consul', service: 'consul', port: 8300, meta: { grpc_tls_port: port } },
    })
  const seen = told(east)
  await server('dc1-server', '21103')
  await server('dc1-server-b', '21303')
  t.same(seen(), sentAddresses(file))
  const token = recordingLines(file).find(each => each.event === 'token with 2 servers') as unknown as { ServerAddresses: string[] }
  t.same(await tokenAddresses(east), { ServerAddresses: token.ServerAddresses, ManualServerAddresses: null })
})

t.test('gateways for the servers: tokens and streams follow the flag and the gateways as recorded', async t => {
  const own = '127.0.1.1:21103'
  const east = await Cluster.start('dc1', { addresses: () => [own] })
  t.teardown(() => east.close())
  const file = '06-mesh-gateways--01-token-and-dialing.json'
  interface TokenLine {
    req: { ServerExternalAddresses?: string[] }
    status: number
    ServerAddresses: string[]
    ManualServerAddresses: string[] | null
    body?: string
  }
  const lines = recordingLines(file).filter(each => each.event === 'token') as unknown as TokenLine[]
  const next = async (count: number) => {
    for (const line of lines.splice(0, count)) {
      const made = tokenAddresses(east, line.req.ServerExternalAddresses)
      if (line.status === 200) {
        t.same(await made, { ServerAddresses: line.ServerAddresses, ManualServerAddresses: line.ManualServerAddresses })
      } else await t.rejects(made, { message: line.body ?? '' })
    }
  }
  const flag = (on: boolean) => east.configEntries.write({ kind: 'mesh', peering: { peerThroughMeshGateways: on } } as never)
  const seen = told(east)
  await next(4)
  const wan = { wan: { address: '198.51.100.9', port: 21_751 } }
  await east.register('g1', 'gw1', 'mesh-gateway', 'passing', {
    kind: 'mesh-gateway',
    address: '10.1.0.9',
    port: 21_750,
    taggedAddresses: wan,
  })
  await flag(true)
  seen()
  await next(1)
  await east.catalog.register({
    node: 'g2',
    address: '127.0.1.1',
    service: { id: 'gw2', service: 'mesh-gateway', kind: 'mesh-gateway', port: 21_752 },
  })
  seen()
  await next(2)
  await east.catalog.deregister({ node: 'g2' })
  seen()
  await east.catalog.deregister({ node: 'g1' })
  seen()
  await next(1)
  await flag(false)
  t.same(seen(), sentAddresses(file), 'and when the last gateway goes nothing is sent')
  t.same(lines, [])
})

t.test('a locality travels in the token and with the stream, as recorded', async t => {
  const locality = { region: 'us-west-1', zone: 'us-west-1a' }
  const [east, west] = await Promise.all([Cluster.start('dc3', { locality }), Cluster.start('dc4', { locality: { region: 'eu' } })])
  t.teardown(() => Promise.all([east.close(), west.close()]))
  const recorded = JSON.parse(readFileSync(join('test', 'golden', 'peering', 'token-generation-config-errors.json'), 'utf8')) as {
    body: { Remote?: object }
  }[]
  const peeringToken = await east.peerings.generateToken({ peerName: 'dc4' })
  const { Remote } = JSON.parse(Buffer.from(peeringToken, 'base64').toString()) as { Remote: object }
  t.same(Remote, recorded.find(each => each.body.Remote)!.body.Remote)
  await west.peerings.establish({ peerName: 'dc3', peeringToken })
  await until(() => east.state('dc4') === 'ACTIVE')
  t.same(west.peerings.read('dc3').value?.remote, { partition: '', datacenter: 'dc3', locality })
  t.same(east.peerings.read('dc4').value?.remote, { partition: '', datacenter: 'dc4', locality: { region: 'eu', zone: '' } })
})

/** Collects what the exporter offers as addresses, each time it is asked, as a stream would send it. */
function told(cluster: Cluster): () => string[][] {
  const { tables, ca, datacenter } = cluster
  const own = () => ['127.0.1.1:21103']
  const exporter = new Exporter({ tables, ca, datacenter, peer: 'p', serverAddresses: () => serverAddresses(tables, own) })
  const all: string[][] = []
  let last = Buffer.alloc(0)
  const look = () => {
    const { addresses } = exporter.read().offer
    if (addresses && Buffer.compare(addresses.value, last) !== 0) {
      last = Buffer.from(addresses.value)
      all.push(PeeringServerAddresses.decode(addresses.value).Addresses)
    }
    return all
  }
  look()
  return look
}

async function tokenAddresses(cluster: Cluster, serverExternalAddresses?: string[]): Promise<unknown> {
  const text = await cluster.peerings.generateToken({ peerName: 'p', ...(serverExternalAddresses && { serverExternalAddresses }) })
  const { ServerAddresses, ManualServerAddresses } = JSON.parse(Buffer.from(text, 'base64').toString()) as Record<string, unknown>
  return { ServerAddresses, ManualServerAddresses }
}

t.test('the payloads that crash a real importer are refused by ours, and its stream goes on', async t => {
  const file = '04-errors--importer-panics.json'
  const lines = recordingLines(file)
  const cases = lines.flatMap((line, i) => {
    if (!line.event?.startsWith('case')) return []
    const message = lines.slice(i).find(each => each.hex)!
    const crashed = (lines.slice(i + 1).find(each => each.event === 'stream-error') as unknown as { details: string }).details
    return [{ what: (line as unknown as { k: string }).k, message, crashed: crashed.includes('panic') }]
  })
  t.equal(cases.length, 6)
  const now = { monoMs: 0, wallMs: 0 }
  const session = newSession(
    { role: 'acceptor', peerId: 'x', peerName: 'p', streamSecret: '', remote: { partition: '', datacenter: '' } },
    now,
  )
  step(session, { type: 'opened' }, now)
  for (const { what, message, crashed } of cases) {
    const [state, effects] = step(session, { type: 'message', message: ReplicationMessage.decode(Buffer.from(message.hex!, 'hex')) }, now)
    const refused = effects.some(
      each => each.type === 'send' && each.message.Payload?.$case === 'request' && each.message.Payload.value.Error,
    )
    t.same({ refused, phase: state.phase }, { refused: crashed, phase: 'open' }, what)
  }
})

t.test('teardown: real acceptors hang in nine of twelve ways, ours ends each with OK within two seconds', async t => {
  const [line] = recordingLines('05-lifecycle--04-teardown-reliability.json')
  const recorded = (line as unknown as { res: { kind: string; delay: number; status: object | null }[] }).res
  t.equal(recorded.filter(each => each.status === null).length, 9)
  for (const kind of new Set(recorded.map(each => `${each.kind} ${each.delay}`))) {
    const [who, delay] = kind.split(' ')
    let now = 0
    const at = () => ({ monoMs: now, wallMs: now })
    let state = newSession(
      { role: 'acceptor', peerId: 'x', peerName: 'p', streamSecret: '', remote: { partition: '', datacenter: '' } },
      at(),
    )
    const closes: object[] = []
    const run = (event: Parameters<typeof step>[1]) => {
      const [next, effects] = step(state, event, at())
      state = next
      closes.push(...effects.flatMap(each => (each.type === 'close' ? [{ ...each.status, now }] : [])))
    }
    run({ type: 'opened' })
    run(who === 'acceptor' ? { type: 'terminate' } : { type: 'message', message: { Payload: { $case: 'terminated', value: {} } } })
    now = Number(delay)
    run({ type: 'ended' })
    t.same(closes, [{ code: 0, message: '', now }], kind)
  }
})

t.end()
