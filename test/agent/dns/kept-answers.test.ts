// Replies that are kept: they say what a door says that has just been opened, whatever has happened in between, and they are shuffled.
import * as fc from 'fast-check'
import { isDeepStrictEqual } from 'node:util'
import t, { type Test } from 'tap'
import { KeptAnswers } from '../../../src/agent/dns/kept-answers.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { Registry } from '../../../src/lib/metrics.ts'
import { loadConfig } from '../../../src/agent/config.ts'
import { unknownFreshness } from '../../../src/mesh/freshness.ts'
import { startDnsDoor } from '../../../src/agent/dns/server.ts'
import { askUdp, dig, digQuery, dug } from './client.ts'
import { fillAlpha, imported, startScene, type DnsScene } from './golden-catalog.ts'

const runs = process.env['ISTHMUS_DEEP'] === '1' ? 300 : 5

async function scene(t: Test, flags: Record<string, unknown> = {}): Promise<DnsScene> {
  const made = await startScene('dc1', flags)
  t.teardown(() => made.close())
  return made
}

/** A second door over the same tables, which has answered nothing yet. */
async function freshDoor({ tables }: DnsScene) {
  const config = loadConfig({ dev: true, flags: { node_name: 'n' } })
  const metrics = new Registry()
  return startDnsDoor({
    address: '127.0.0.1',
    port: 0,
    tables,
    config,
    datacenter: 'dc1',
    freshness: () => unknownFreshness,
    query: () => undefined,
    logger: silentLogger(),
    metrics,
  })
}

const register = ({ catalog }: DnsScene, service: string, i: number, more: { status?: string; address?: string } = {}) =>
  catalog.register({
    node: `n${i}`,
    address: `10.9.0.${i}`,
    service: { id: service, service, address: more.address ?? `10.0.0.${i}`, port: 8000 + i, tags: [`t${i}`] },
    checks: [{ checkId: `c-${service}`, name: 'c', serviceId: service, status: more.status ?? 'passing' }],
  })

void t.test('a door that has answered before and one that has not say the same after every change of the catalog', async t => {
  const made = await scene(t)
  const names = ['a', 'b', 't1.a', 'n1.node', 'n2.node', 'a.connect', 'a.virtual', 'a.service.east.peer', 'n1.node.dc1', '0a000001.addr']
  const questions = names.flatMap(name => ['A', 'AAAA', 'SRV', 'TXT'].map(type => [fullName(name), type] as const))
  const service = fc.constantFrom('a', 'b')
  const instance = fc.integer({ min: 1, max: 5 })
  const change = fc.oneof(
    fc.record({ what: fc.constant('register' as const), service, instance, status: fc.constantFrom('passing', 'warning', 'critical') }),
    fc.record({ what: fc.constant('deregister' as const), service, instance }),
    fc.record({ what: fc.constant('node gone' as const), instance }),
    fc.record({ what: fc.constant('imported' as const), instance }),
    fc.record({ what: fc.constant('peer gone' as const) }),
  )
  const apply = async (each: typeof change extends fc.Arbitrary<infer T> ? T : never) => {
    if (each.what === 'register') await register(made, each.service, each.instance, each)
    else if (each.what === 'deregister') await made.catalog.deregister({ node: `n${each.instance}`, serviceId: each.service })
    else if (each.what === 'node gone') await made.catalog.deregister({ node: `n${each.instance}` })
    else if (each.what === 'imported') await made.catalog.replaceImported('east', 'a', [imported('a', `10.20.0.${each.instance}`, 70)], 1)
    else await made.catalog.purgeImported('east')
  }
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), async changes => {
      for (const each of changes) {
        await apply(each)
        const fresh = await freshDoor(made)
        for (const [name, type] of questions) {
          // Over TCP nothing is cut, so that whole answers can be compared; asked twice, so that what follows was kept.
          for (const options of [['+tcp'], ['+tcp'], []]) {
            const [old, young] = await Promise.all([dig(made.door.port, name, type, options), dig(fresh.port, name, type, options)])
            const [ours, theirs] = options.length > 0 ? [old, young] : [old.answer.length, young.answer.length]
            if (!isDeepStrictEqual(ours, theirs)) t.same(ours, theirs, `${name} ${type} after ${JSON.stringify(changes)}`)
          }
        }
        await fresh.close()
      }
    }),
    { numRuns: runs },
  )
  t.pass(`${runs} runs`)
})

function fullName(name: string): string {
  return /\.(?:node|connect|virtual|service|addr)/.test(name) ? `${name}.consul` : `${name}.service.consul`
}

void t.test('every reply has the id, the flags and the spelling of its own question', async t => {
  const made = await scene(t)
  await register(made, 'web', 1)
  for (const name of ['web.service.consul', 'WEB.service.consul', 'web.SERVICE.Consul', 'web.service.consul', 'WEB.service.consul']) {
    for (const options of [[], ['+rec'], ['+edns'], ['+edns', '+bufsize=4096'], ['+tcp']]) {
      const answer = await dig(made.door.port, name, 'A', options)
      t.same(answer.answer, [`${name}. 0 A 10.0.0.1`])
      t.same(answer.flags, options.includes('+rec') ? ['qr', 'aa', 'rd'] : ['qr', 'aa'])
      t.equal(answer.edns !== null, options.includes('+edns'))
    }
  }
})

void t.test('the address that comes first is each in turn, as often as instances stand behind it', async t => {
  const made = await scene(t)
  for (let i = 1; i <= 4; i++) await register(made, 'web', i)
  // A fifth instance stands behind the fourth one's address.
  await register(made, 'web', 5, { address: '10.0.0.4' })
  const first = new Map<string, number>()
  for (let i = 0; i < 2000; i++) {
    const answer = (await askUdp(made.door.port, digQuery('web.service.consul', 'A')))!
    const addresses = [0, 1, 2].map(at => answer.subarray(36 + 16 * at + 12, 36 + 16 * at + 16).join('.'))
    if (new Set(addresses).size !== 3) t.fail(`an address twice: ${addresses.join()}`)
    first.set(addresses[0]!, (first.get(addresses[0]!) ?? 0) + 1)
  }
  // Of 2000 draws 400 are expected, with a deviation of 18; 800 and 22 for the double one.
  for (const i of [1, 2, 3]) t.ok(Math.abs(first.get(`10.0.0.${i}`)! - 400) < 120, `10.0.0.${i}: ${first.get(`10.0.0.${i}`)}`)
  t.ok(Math.abs(first.get('10.0.0.4')! - 800) < 150, `10.0.0.4: ${first.get('10.0.0.4')}`)
})

void t.test('SRV answers come in several orders, and cut ones show every instance', async t => {
  const made = await scene(t)
  for (let i = 1; i <= 9; i++) await register(made, 'web', i)
  const orders = new Set<string>()
  const seen = new Set<string>()
  for (let i = 0; i < 100; i++) {
    const whole = (await askUdp(made.door.port, digQuery('web.service.consul', 'SRV', ['+edns', '+bufsize=4096'])))!
    orders.add(whole.subarray(2).toString('latin1'))
    if (dug(whole).answer.length !== 9) t.fail('an instance is missing')
    for (const line of (await dig(made.door.port, 'web.service.consul', 'SRV')).answer) seen.add(line)
  }
  t.ok(orders.size >= 15, `${orders.size} orders of 100 answers`)
  t.equal(seen.size, 9)
})

void t.test('the serial of a kept NXDOMAIN is the time of the answer', t => {
  const kept = new KeptAnswers({ tables: { revision: 1, indexOf: () => 1 }, nowMs: () => now, random: Math.random })
  let now = 1_000_000
  const question = digQuery('nope.service.consul', 'A')
  const bytes = Buffer.concat([question, Buffer.alloc(40)])
  bytes[3] = 3
  kept.keep(question, { bytes, topics: [], serialAt: question.length + 4, draw: undefined, shuffled: false })
  for (const at of [1_000_000, 7_000_900]) {
    now = at
    const reply = kept.reply(question)!
    t.equal(reply.readUInt32BE(question.length + 4), Math.floor(at / 1000))
    t.same(reply.subarray(0, 2), question.subarray(0, 2))
  }
  t.end()
})

void t.test('a flood of names that nobody has takes no place from those that answer, and little memory', t => {
  const kept = new KeptAnswers({ tables: { revision: 1, indexOf: () => 1 }, nowMs: () => 0, random: Math.random })
  const reply = (question: Buffer, rcode: number) => {
    const bytes = Buffer.from(question)
    bytes[3] = rcode
    return { bytes, topics: [], serialAt: 0, draw: undefined, shuffled: false }
  }
  const good = digQuery('web.service.consul', 'A')
  kept.keep(good, reply(good, 0))
  for (let i = 0; i < 20_000; i++) {
    const bad = digQuery(`x${i}.service.consul`, 'A')
    kept.keep(bad, reply(bad, 3))
  }
  t.ok(kept.reply(good))
  t.equal(kept.reply(digQuery('x1.service.consul', 'A')), undefined, 'the oldest are gone')
  t.ok(kept.reply(digQuery('x19999.service.consul', 'A')))
  t.end()
})

void t.test('a client that sends options is answered for itself', async t => {
  const made = await scene(t)
  await fillAlpha(made)
  for (const subnet of ['10.1.2.0/24', '10.7.0.0/16']) {
    const { edns } = await dig(made.door.port, 'web.service.consul', 'A', ['+edns', `+subnet=${subnet}`])
    t.equal(edns, `EDNS: version: 0, flags:; udp: 1232 CLIENT-SUBNET: ${subnet}/0`)
  }
})

void t.test('a cookie, another each time, makes no difference to what is kept', async t => {
  const made = await scene(t)
  await register(made, 'web', 1)
  const ask = async (cookie: number) => {
    const question = digQuery('web.service.consul', 'A', ['+edns'])
    question.writeUInt16BE(12, question.length - 2)
    const option = Buffer.from([0, 10, 0, 8, 0, 0, 0, 0, 0, 0, 0, cookie])
    return dug((await askUdp(made.door.port, Buffer.concat([question, option])))!)
  }
  for (const address of ['10.0.0.1', '10.0.0.8']) {
    await register(made, 'web', 1, { address })
    for (let i = 0; i < 5; i++) {
      const { answer, edns } = await ask(i)
      t.same(answer, [`web.service.consul. 0 A ${address}`])
      t.equal(edns, 'EDNS: version: 0, flags:; udp: 1232')
    }
  }
})
