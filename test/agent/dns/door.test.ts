// What the door does beyond the recorded answers: the catalog as it changes, peers kept apart, recursors, configuration.
import { execFile, spawnSync } from 'node:child_process'
import { encode } from 'dns-packet'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { parseRecursor } from '../../../src/agent/dns/recursors.ts'
import { startDnsDoor } from '../../../src/agent/dns/server.ts'
import { loadConfig } from '../../../src/agent/config.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { Registry } from '../../../src/lib/metrics.ts'
import { unknownFreshness, type Freshness } from '../../../src/mesh/freshness.ts'
import { until } from '../../support/until.ts'
import { askTcp, askUdp, dig, digQuery, dug, framed } from './client.ts'
import { fillAlpha, imported, startScene, type DnsScene } from './golden-catalog.ts'
import { exampleCom, startRecursor } from './recursor.ts'

async function scene(t: Test, datacenter = 'dc1', flags: Record<string, unknown> = {}): Promise<DnsScene> {
  const made = await startScene(datacenter, flags)
  t.teardown(() => made.close())
  return made
}

const instance = (service: string, address: string, more: object = {}) => ({
  node: 'n1',
  address: '127.0.0.1',
  service: { id: `${service}-${address}`, service, address, port: 80, ...more },
})

void t.test('the next answer shows what the catalog has become', async t => {
  const { catalog, door } = await scene(t)
  const ask = async () => {
    const { rcode, answer } = await dig(door.port, 'web.service.consul', 'A')
    return [rcode, ...answer]
  }
  t.same(await ask(), ['NXDOMAIN'])
  await catalog.register(instance('web', '10.0.0.1'))
  t.same(await ask(), ['NOERROR', 'web.service.consul. 0 A 10.0.0.1'])
  const check = { node: 'n1', checkId: 'c', name: 'c', serviceId: 'web-10.0.0.1' }
  await catalog.register({ ...instance('web', '10.0.0.1'), check: { ...check, status: 'critical' } })
  t.same(await ask(), ['NXDOMAIN'])
  await catalog.register({ ...instance('web', '10.0.0.1'), check: { ...check, status: 'passing' } })
  t.same(await ask(), ['NOERROR', 'web.service.consul. 0 A 10.0.0.1'])
  await catalog.register({
    node: 'n1',
    address: '127.0.0.1',
    check: { checkId: '_node_maintenance', name: 'Node Maintenance Mode', status: 'critical' },
  })
  t.same(await ask(), ['NXDOMAIN'], 'a node in maintenance is out, with all that runs on it')
  await catalog.deregister({ node: 'n1' })
  t.same(await ask(), ['NXDOMAIN'])
})

void t.test('a peer is seen under its own name and nowhere else', async t => {
  const { catalog, door, store, tables } = await scene(t)
  await catalog.register(instance('local', '10.0.0.1'))
  await catalog.replaceImported('east', 'api', [imported('api', '10.20.0.5', 7000)], 1)
  const ask = async (name: string, type = 'A') => {
    const { rcode, answer } = await dig(door.port, name, type)
    return [rcode, ...answer]
  }
  t.same(await ask('api.service.east.peer.consul'), ['NOERROR', 'api.service.east.peer.consul. 0 A 10.20.0.5'])
  for (const name of [
    'api.service.consul',
    'api.service.east.consul',
    'api.service.west.peer.consul',
    'api.connect.consul',
    'local.service.east.peer.consul',
    'local.connect.east.peer.consul',
    'beta.node.consul',
    'n1.node.east.peer.consul',
  ]) {
    t.same(await ask(name), ['NXDOMAIN'], name)
  }
  const value = Buffer.from(JSON.stringify({ address: '240.0.0.9' }))
  const { revision } = await store.txn({ ops: [{ op: 'put', key: keys.virtualIp('', 'api'), value }] })
  await tables.reached(revision)
  t.same(await ask('api.virtual.east.peer.consul'), ['NOERROR'], 'nor is a local virtual address that of the peer')
  t.same(await ask('api.virtual.dc9.dc.consul'), ['NOERROR'], 'nor that of another datacenter')
  t.same(await ask('api.virtual.consul'), ['NOERROR', 'api.virtual.consul. 0 A 240.0.0.9'])
  t.same((await dig(door.port, '5.0.20.10.in-addr.arpa', 'PTR')).rcode, 'SERVFAIL', 'its addresses have no name')
  await catalog.purgeImported('east')
  t.same(await ask('api.service.east.peer.consul'), ['NXDOMAIN'], 'and it is gone with the peering')
})

void t.test('reverse names and nodes of peers follow the catalog', async t => {
  const { catalog, door } = await scene(t)
  const answers = async (name: string, type: string, answer: string[]) => {
    const wanted = JSON.stringify(answer)
    await until(`${name} answers ${answer.join()}`, async () => JSON.stringify((await dig(door.port, name, type)).answer) === wanted)
    t.pass(`${name} ${answer.join()}`)
  }
  const name = '7.0.0.10.in-addr.arpa'
  await answers(name, 'PTR', [])
  await catalog.register(instance('web', '10.0.0.7'))
  await answers(name, 'PTR', [`${name}. 0 PTR web.service.dc1.consul.`])
  await catalog.register({ node: 'n7', address: '10.0.0.7' })
  await answers(name, 'PTR', [`${name}. 0 PTR n7.node.dc1.consul.`])
  await answers('beta.node.east.peer.consul', 'A', [])
  await catalog.replaceImported('east', 'api', [imported('api', '10.20.0.5', 7000)], 1)
  await answers('beta.node.east.peer.consul', 'A', ['beta.node.east.peer.consul. 0 A 127.0.0.1'])
  await catalog.purgeImported('east')
  await answers('beta.node.east.peer.consul', 'A', [])
})

void t.test('names of services and tags are compared without regard to case', async t => {
  const { catalog, door } = await scene(t)
  await catalog.register(instance('Web', '10.0.0.1', { tags: ['Blue'] }))
  t.same((await dig(door.port, 'bLUE.wEB.service.consul', 'A')).answer, ['bLUE.wEB.service.consul. 0 A 10.0.0.1'])
})

void t.test('an address that stands behind several instances comes once, and SRV names every port', async t => {
  const { catalog, door } = await scene(t)
  for (const port of [80, 81, 82]) await catalog.register(instance('web', '10.0.0.1', { id: `web-${port}`, port }))
  t.same((await dig(door.port, 'web.service.consul', 'A')).answer, ['web.service.consul. 0 A 10.0.0.1'])
  t.same(
    (await dig(door.port, 'web.service.consul', 'SRV')).answer,
    [80, 81, 82].map(port => `web.service.consul. 0 SRV 1 1 ${port} 0a000001.addr.dc1.consul.`),
  )
})

void t.test('answers over and over are spread over all instances', async t => {
  const { catalog, door } = await scene(t)
  for (let i = 1; i <= 12; i++) await catalog.register(instance('web', `10.0.0.${i}`))
  const seen = new Set<string>()
  for (let i = 0; i < 100; i++) for (const line of (await dig(door.port, 'web.service.consul', 'A')).answer) seen.add(line)
  t.equal(seen.size, 12)
})

void t.test('a_record_limit, disable_compression and udp_answer_limit do what they say', async t => {
  const limited = await scene(t, 'dc1', { dns_config: { a_record_limit: 2 } })
  const plain = await scene(t, 'dc1', { dns_config: { disable_compression: true, udp_answer_limit: 5 } })
  for (const { catalog } of [limited, plain]) for (let i = 1; i <= 12; i++) await catalog.register(instance('web', `10.0.0.${i}`))
  t.equal((await dig(limited.door.port, 'web.service.consul', 'A', ['+tcp'])).answer.length, 2)
  t.equal((await dig(limited.door.port, 'web.service.consul', 'SRV', ['+tcp'])).answer.length, 12, 'a_record_limit is for addresses')
  const five = await dig(plain.door.port, 'web.service.consul', 'A')
  t.equal(five.answer.length, 5)
  t.equal(five.size, 12 + 24 + 5 * (20 + 14), 'every name in full')
})

void t.test('EDNS of a version that does not exist is told so', async t => {
  const { door } = await scene(t)
  const query = digQuery('web.service.consul', 'A', ['+edns'])
  query[query.length - 5] = 1
  const reply = (await askUdp(door.port, query))!
  t.equal(reply[reply.length - 6], 1, 'the upper bits of BADVERS')
})

void t.test('a recursor that does not answer, or answers wrongly, gives way to the next', async t => {
  const silent = await startRecursor(() => undefined)
  const forger = await startRecursor(query => {
    const reply = exampleCom(query)
    reply.writeUInt16BE((reply.readUInt16BE(0) + 1) & 0xffff, 0)
    return reply
  })
  const other = await startRecursor(() => exampleCom(digQuery('other.example.com', 'A')))
  const refusing = await startRecursor(query => {
    const reply = exampleCom(query)
    reply[3] = 5
    return reply
  })
  const good = await startRecursor()
  const all = [silent, forger, other, refusing, good]
  t.teardown(() => Promise.all(all.map(each => each.close())))
  const { door } = await scene(t, 'dc1', {
    recursors: all.map(each => `127.0.0.1:${each.port}`),
    dns_config: { recursor_timeout: '100ms' },
  })
  for (const options of [[], ['+tcp']]) {
    t.same((await dig(door.port, 'www.example.com', 'A', options)).answer, ['www.example.com. 300 A 192.0.2.53'])
  }
  t.same(
    all.map(each => each.asked.length),
    [2, 2, 2, 2, 2],
    'each was asked in turn',
  )
})

void t.test('the random strategy spreads questions over the recursors', async t => {
  const all = await Promise.all([startRecursor(), startRecursor()])
  t.teardown(() => Promise.all(all.map(each => each.close())))
  const { door } = await scene(t, 'dc1', {
    recursors: all.map(each => `127.0.0.1:${each.port}`),
    dns_config: { recursor_strategy: 'random' },
  })
  for (let i = 0; i < 40; i++) await dig(door.port, 'www.example.com', 'A')
  t.ok(all.every(each => each.asked.length > 0))
})

void t.test('when no recursor is there, the answer is SERVFAIL', async t => {
  const { door } = await scene(t, 'dc1', { recursors: ['127.0.0.1:1'], dns_config: { recursor_timeout: '200ms' } })
  for (const options of [[], ['+tcp']]) {
    const { rcode, flags } = await dig(door.port, 'www.example.com', 'A', options)
    t.same([rcode, flags], ['SERVFAIL', ['qr', 'ra']])
  }
})

void t.test('a recursor that sends more than the client takes is cut, with the TC flag', async t => {
  const big = await startRecursor(query => {
    const reply = exampleCom(query)
    return Buffer.concat([reply, Buffer.alloc(3000)])
  })
  t.teardown(() => big.close())
  const { door } = await scene(t, 'dc1', { recursors: [`127.0.0.1:${big.port}`] })
  const reply = dug((await askUdp(door.port, digQuery('www.example.com', 'A')))!)
  t.same([reply.rcode, reply.flags, reply.answer, reply.size], ['NOERROR', ['qr', 'tc', 'rd', 'ra'], [], 33])
})

void t.test('external names are looked up in the family that was asked for, and no more than five for one query', async t => {
  const recursor = await startRecursor(query =>
    encode({ type: 'response', id: query.readUInt16BE(0), flags: 0x0180, questions: [{ name: 'x', type: 'A' }] }),
  )
  t.teardown(() => recursor.close())
  const { catalog, door } = await scene(t, 'dc1', { recursors: [`127.0.0.1:${recursor.port}`], dns_config: { recursor_timeout: '50ms' } })
  for (let i = 0; i < 40; i++) await catalog.register(instance('far', `host-${i}.example.com`))
  t.equal((await dig(door.port, 'far.service.consul', 'SRV', ['+tcp'])).answer.length, 40)
  t.equal(recursor.asked.length, 5)
})

void t.test('recursors are addresses, with or without a port', async t => {
  t.same(parseRecursor('10.0.0.2'), { host: '10.0.0.2', port: 53 })
  t.same(parseRecursor('10.0.0.2:5353'), { host: '10.0.0.2', port: 5353 })
  t.same(parseRecursor('fd00::2'), { host: 'fd00::2', port: 53 })
  t.same(parseRecursor('[fd00::2]:5353'), { host: 'fd00::2', port: 5353 })
  for (const bad of ['', 'dns.example.com', '10.0.0.2:', '10.0.0.2:0', '10.0.0.2:99999', 'x:53']) {
    t.throws(() => parseRecursor(bad), { code: 'invalid', message: new RegExp('write recursors as') }, bad)
  }
})

void t.test('a port that is taken is named, with what to do', async t => {
  const { door, tables } = await scene(t)
  const config = loadConfig({ dev: true, flags: { node_name: 'n' } })
  const again = startDnsDoor({
    address: '127.0.0.1',
    port: door.port,
    tables,
    config,
    datacenter: 'dc1',
    freshness: () => unknownFreshness,
    query: () => undefined,
    logger: silentLogger(),
    metrics: new Registry(),
  })
  await t.rejects(again, { code: 'unavailable', message: new RegExp(`cannot open the DNS door on 127.0.0.1:${door.port} .*set ports.dns`) })
})

void t.test('a TXT query for an imported service tells how old it may be, and nothing of what is not imported', async t => {
  const freshness: Freshness = { state: 'FROZEN', ageMs: 61_200, evidence: 'digest' }
  const made = await startScene('dc1', {}, { freshness })
  t.teardown(() => made.close())
  const { catalog, door } = made
  await catalog.register(instance('local', '10.0.0.1'))
  await catalog.replaceImported('east', 'api', [imported('api', '10.20.0.5', 7000)], 1)
  const ask = async (name: string, type = 'TXT') => {
    const { rcode, answer } = await dig(door.port, name, type)
    return [rcode, ...answer]
  }
  t.same(await ask('api.service.east.peer.consul'), [
    'NOERROR',
    'api.service.east.peer.consul. 0 A 10.20.0.5',
    'api.service.east.peer.consul. 0 TXT "isthmus-freshness=FROZEN 61.2s (digest)"',
  ])
  t.same(await ask('api.service.east.peer.consul', 'A'), ['NOERROR', 'api.service.east.peer.consul. 0 A 10.20.0.5'])
  t.same(await ask('local.service.consul'), ['NOERROR', 'local.service.consul. 0 A 10.0.0.1'])
  freshness.ageMs = 62_200
  t.match((await ask('api.service.east.peer.consul'))[2], 'FROZEN 62.2s', 'an age that is asked for again has grown')
  t.same(await ask('other.service.east.peer.consul'), ['NXDOMAIN'])
  t.same(await ask('api.service.west.peer.consul'), ['NXDOMAIN'])
})

void t.test('messages are counted by transport and rcode', async t => {
  const { door, metrics } = await scene(t)
  await dig(door.port, 'nope.service.consul', 'A')
  await dig(door.port, 'nope.service.consul', 'A', ['+tcp'])
  await dig(door.port, 'example.com', 'A')
  const text = await metrics.metrics()
  t.match(text, 'isthmus_dns_messages_total{transport="udp",rcode="NXDOMAIN"} 1')
  t.match(text, 'isthmus_dns_messages_total{transport="tcp",rcode="NXDOMAIN"} 1')
  t.match(text, 'isthmus_dns_messages_total{transport="udp",rcode="REFUSED"} 1')
})

/** Runs a client against a door; `skip` says loudly why it cannot be run. */
function client(name: string, version: string): { skip: string | false; run: (...args: string[]) => Promise<string> } {
  const missing = spawnSync(name, [version]).error !== undefined
  if (missing) process.stderr.write(`# NOT TESTED: ${name} is not installed\n`)
  return {
    skip: missing ? `${name} is not installed` : false,
    run: async (...args) => (await promisify(execFile)(name, args)).stdout,
  }
}

const digProgram = client('dig', '-v')
const kdig = client('kdig', '-V')
const dnsperf = client('dnsperf', '-h')

void t.test('dig itself understands the answers', { skip: digProgram.skip }, async t => {
  const made = await scene(t)
  await fillAlpha(made)
  const run = (...args: string[]) => digProgram.run('@127.0.0.1', '-p', String(made.door.port), '+norec', '+time=3', '+tries=1', ...args)
  const short = (await run('+short', 'web.service.consul', 'SRV')).trim().split('\n')
  t.same(short.sort(), ['1 10 8080 7f00000a.addr.dc1.consul.', '1 7 8081 7f00000b.addr.dc1.consul.'])
  const many = await run('big.service.consul', 'SRV', '+tcp')
  t.match(many, /status: NOERROR.*\n.*ANSWER: 60, AUTHORITY: 0, ADDITIONAL: 301/)
  t.notMatch(many, /WARNING|malformed|extra/i)
  t.match(await run('consul', 'AXFR'), 'Transfer failed')
  // It sends a cookie each time, which nothing here keeps.
  for (let i = 0; i < 3; i++)
    t.match(await run('alpha.node.consul', 'A', '+cookie'), /NOERROR[^]*alpha\.node\.consul\.\s+0\s+IN\s+A\s+127\.0\.0\.1/)
})

void t.test('kdig asks many questions over one TCP connection and understands the answers', { skip: kdig.skip }, async t => {
  const made = await scene(t)
  await fillAlpha(made)
  const run = (...args: string[]) => kdig.run('@127.0.0.1', '-p', String(made.door.port), '+time=3', '+retry=0', ...args)
  t.equal((await run('+short', 'alpha.node.consul', 'A')).trim(), '127.0.0.1')
  const kept = await run('+tcp', '+keepopen', '+short', 'api.service.consul', 'A', 'api.virtual.consul', 'A', 'v6.service.consul', 'AAAA')
  t.same(kept.trim().split('\n'), ['127.0.0.20', '240.0.0.1', 'fe80::1'])
  const edns = await run('+edns', '+bufsize=1232', '+padding=64', 'web.service.consul', 'SRV')
  t.match(edns, /status: NOERROR/)
  t.notMatch(edns, /WARNING|malformed/i)
})

void t.test('dnsperf loses no answer while the catalog changes', { skip: dnsperf.skip }, async t => {
  const made = await scene(t)
  const directory = t.testdir({
    queries: ['web.service.consul A', 'web.service.consul SRV', 'nope.service.consul A', 'n1.node.consul A', ''].join('\n'),
  })
  await made.catalog.register(instance('web', '10.0.0.1'))
  const over = new AbortController()
  const running = dnsperf
    .run('-s', '127.0.0.1', '-p', String(made.door.port), '-d', `${directory}/queries`, '-l', '1', '-q', '20', '-Q', '4000')
    .finally(() => over.abort())
  for (let i = 2; !over.signal.aborted; i++) {
    await made.catalog.register(instance('web', `10.0.0.${i % 50}`, { port: i }))
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  const text = await running
  t.match(text, /Queries lost: +0 /)
  t.match(text, /Response codes: +NOERROR \d+ \([\d.]+%\), NXDOMAIN \d+ \([\d.]+%\)\n/)
})

void t.test('a prepared query is answered with its own TTL, in its own order, and a datacenter that is not ours has none', async t => {
  const nodes = [1, 2, 3, 4].map(i => imported('web', `10.0.0.${i}`, 80))
  const asked: string[] = []
  const made = await startScene(
    'dc1',
    { dns_config: { service_ttl: { web: '9s' } } },
    {
      executed(_tables, name) {
        asked.push(name)
        if (name === 'none') return { service: 'web', nodes: [], datacenter: 'dc1', peerName: '', ttl: '' }
        return { service: 'Web', nodes, datacenter: 'dc1', peerName: '', ttl: name === 'own' ? '7s' : '' }
      },
    },
  )
  t.teardown(() => made.close())
  const ask = async (name: string, type = 'A', options = ['+tcp']) => {
    const { rcode, answer } = dug((await askTcp(made.door.port, framed(digQuery(name, type, options))))[0]!)
    return [rcode, ...answer]
  }
  const lines = (name: string, ttl: number) => nodes.map(({ service }) => `${name}. ${ttl} A ${service.address}`)
  t.same(await ask('own.query.consul'), ['NOERROR', ...lines('own.query.consul', 7)])
  t.same(await ask('other.query.dc1.consul'), ['NOERROR', ...lines('other.query.dc1.consul', 9)])
  t.same(await ask('_With.Dots._any.query.consul'), ['NOERROR', ...lines('_With.Dots._any.query.consul', 9)])
  t.same(await ask('none.query.consul'), ['NXDOMAIN'], 'nobody is NXDOMAIN')
  for (const name of ['query.consul', 'own.query.dc9.consul', 'own.query.east.peer.consul']) t.same(await ask(name), ['NXDOMAIN'], name)
  t.same(asked, ['own', 'other', 'with.dots', 'none'], 'names are lower case')
})
