// Every recorded answer of a real Consul against ours, over real sockets; where we differ on purpose, a table says how and why.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { dig, type Dug } from './client.ts'
import { alphaQueries, deltaFlags, fillAlpha, fillDelta, startScene, type DnsScene } from './golden-catalog.ts'
import { startRecursor, type FakeRecursor } from './recursor.ts'

interface Case extends Omit<Dug, 'rcode'> {
  name: string
  agent: 'alpha' | 'delta'
  query: string
  type: string
  options: string[]
  rcode: string | null
}

interface Difference {
  why: string
  /** What we answer in the place of the recorded parts. */
  ours: Partial<Omit<Dug, 'size'>>
}

const nothing = { answer: [], additional: [] }
const soa = ['consul. 0 SOA ns.consul. hostmaster.consul. SERIAL 3600 600 86400 0']
const noIngress: Difference = {
  why: 'there are no ingress gateways in this catalog',
  ours: { rcode: 'NXDOMAIN', ...nothing, authority: soa },
}
const keepsOpt = 'RFC 6891 6.1.1: whoever sends OPT gets OPT, also in a reply that was cut'

const differences: Record<string, Difference> = {
  'ingress/a': noIngress,
  'ingress/srv': noIngress,
  'query/peer-failover-srv': {
    why: 'a real Consul sends no reply at all; this is what it says of the same instances under the name of the peer',
    ours: {
      rcode: 'NOERROR',
      flags: ['qr', 'aa'],
      answer: ['billq.query.consul. 0 SRV 1 1 7000 0a140005.addr.consul.'],
      additional: [
        '0a140005.addr.consul. 0 A 10.20.0.5',
        'beta.node.beta.peer.consul. 0 TXT "consul-network-segment="',
        'beta.node.beta.peer.consul. 0 TXT "consul-version=1.16.4"',
      ],
    },
  },
  'zone/axfr': { why: 'dig showed no message; no zone is handed out', ours: { rcode: 'NOTIMP', flags: ['qr', 'aa'] } },
  'zone/ixfr': { why: 'dig showed no message; no zone is handed out', ours: { rcode: 'NOTIMP', flags: ['qr', 'aa'] } },
  'config-variants/udp-edns-512': { why: keepsOpt, ours: { edns: 'EDNS: version: 0, flags:; udp: 512' } },
  'config-variants/big-udp-edns': { why: keepsOpt, ours: { edns: 'EDNS: version: 0, flags:; udp: 1232' } },
  'truncation/default-udp-edns-srv': { why: keepsOpt, ours: { edns: 'EDNS: version: 0, flags:; udp: 4096' } },
  'truncation/default-udp-edns-srv-1232': { why: keepsOpt, ours: { edns: 'EDNS: version: 0, flags:; udp: 1232' } },
}

/** Which answers of many are left after a cut is chance: these are compared by number, and by what may be among them. */
const cut = new Set([
  'node/txt',
  'config-variants/big-udp',
  'config-variants/big-udp-edns',
  'config-variants/udp-edns-512',
  'config-variants/udp-limit',
  'config-variants/udp-limit-srv',
  'truncation/default-udp',
  'truncation/default-udp-srv',
  'truncation/default-udp-edns-srv-1232',
])

/** The length of these says nothing of us: the recursor's own bytes, and one that dig printed for a name other than it asked. */
const otherLength = new Set(['config-variants/recursor', 'config-variants/recursor-edns', 'config-variants/recursor-tcp', 'zone/class-ch'])

function expected(key: string, golden: Case): Omit<Dug, 'size'> {
  const serial = (line: string) => line.replace(/( SOA \S+ \S+) \d+/, '$1 SERIAL')
  const sorted = (lines: string[]) => lines.map(serial).sort()
  return {
    rcode: golden.rcode ?? 'NOERROR',
    flags: golden.flags,
    edns: golden.edns?.trim() ?? null,
    answer: sorted(golden.answer),
    authority: sorted(golden.authority),
    additional: sorted(golden.additional),
    ...differences[key]?.ours,
  }
}

const directory = join(process.cwd(), 'test', 'golden', 'dns')

void t.test('every recorded query is answered as Consul answered it', async t => {
  const recursor: FakeRecursor = await startRecursor()
  const alpha: DnsScene = await startScene('dc1', {}, { executed: alphaQueries })
  const delta: DnsScene = await startScene('dc4', deltaFlags(recursor.port))
  t.teardown(() => Promise.all([recursor.close(), alpha.close(), delta.close()]))
  await fillAlpha(alpha)
  await fillDelta(delta)
  const used = new Set<string>()
  for (const file of readdirSync(directory).filter(name => name.endsWith('.json'))) {
    const area = file.replace('.json', '')
    for (const golden of JSON.parse(readFileSync(join(directory, file), 'utf8')) as Case[]) {
      const key = `${area}/${golden.name}`
      const port = (golden.agent === 'alpha' ? alpha : delta).door.port
      const options = golden.options.flatMap(each => each.split(' '))
      const theirs = expected(key, golden)
      // Asked twice: the second reply may be one that was kept.
      await dig(port, golden.query, golden.type, options)
      const { size, ...ours } = await dig(port, golden.query, golden.type, options)
      if (key in differences) used.add(key)
      if (cut.has(key)) {
        used.add(key)
        // Ours hold the OPT record's eleven bytes and so up to one answer less; Consul's estimate of the rest is a little coarser.
        t.ok(Math.abs(ours.answer.length - theirs.answer.length) <= (golden.answer.length > 8 ? 3 : 0), `${key}: as many answers`)
        t.same(shapes(ours.answer), shapes(theirs.answer), `${key}: alike`)
        t.same({ ...ours, answer: [], additional: [] }, { ...theirs, answer: [], additional: [] }, key)
        t.equal(ours.additional.length, golden.additional.length === 0 ? 0 : ours.answer.length, `${key}: an address for each`)
      } else {
        t.same(ours, theirs, `${key}: ${golden.query} ${golden.type}`)
        if (!(key in differences) && !otherLength.has(key) && golden.size !== null) t.equal(size, golden.size, `${key}: as long`)
      }
    }
  }
  t.same(
    [...Object.keys(differences), ...cut].filter(key => !used.has(key)),
    [],
    'the tables name nothing that is not there',
  )
})

/** Records with what differs from one instance to another left out. */
function shapes(lines: string[]): string[] {
  return [
    ...new Set(lines.map(line => line.replace(/"[^"]*"/, 'TEXT').replace(/(?:[0-9a-f]{8}\.|\d+ (?=[0-9a-f]{8}))|10\.\d+\.\d+\.\d+/g, 'X'))),
  ]
}
