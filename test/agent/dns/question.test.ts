// Names to forms, as a table.
import t from 'tap'
import { matchZone, parseForm, reverseAddress, zonesOf, type Form } from '../../../src/agent/dns/question.ts'

const zones = zonesOf('consul.', undefined)
const a = 1
const srv = 33

function form(name: string, type = a): Form | undefined {
  const match = matchZone(name.split('.'), zones)
  return match && parseForm(match, type)
}

const here = { datacenter: '', peer: '' }
const unknown = { form: 'unknown' }

void t.test('names become forms', async t => {
  const cases: [string, number, unknown][] = [
    ['web.service.consul', a, { form: 'service', service: 'web', tag: '', ...here }],
    ['WEB.Service.CONSUL', a, { form: 'service', service: 'web', tag: '', ...here }],
    ['v1.web.service.consul', a, { form: 'service', service: 'web', tag: 'v1', ...here }],
    ['a.b.web.service.consul', a, { form: 'service', service: 'web', tag: 'a.b', ...here }],
    ['_web._tcp.service.consul', srv, { form: 'service', service: 'web', tag: '', ...here }],
    ['_web._tcp.service.consul', a, { form: 'service', service: 'web', tag: '', ...here }],
    ['_web._udp.service.consul', srv, { form: 'service', service: 'web', tag: 'udp', ...here }],
    ['_web._tcp.consul', srv, { form: 'service', service: 'web', tag: '', ...here }],
    ['_web._tcp.consul', a, unknown],
    ['_web._tcp.dc2.consul', srv, { form: 'service', service: 'web', tag: '', datacenter: 'dc2', peer: '' }],
    ['_web._tcp.east.peer.consul', srv, { form: 'service', service: 'web', tag: '', datacenter: '', peer: 'east' }],
    ['web.service.dc2.consul', a, { form: 'service', service: 'web', tag: '', datacenter: 'dc2', peer: '' }],
    ['web.service.dc2.dc.consul', a, { form: 'service', service: 'web', tag: '', datacenter: 'dc2', peer: '' }],
    ['web.service.east.peer.consul', a, { form: 'service', service: 'web', tag: '', datacenter: '', peer: 'east' }],
    ['node.service.consul', a, { form: 'service', service: 'node', tag: '', ...here }],
    ['service.consul', a, unknown],
    ['consul', a, unknown],
    ['ns.consul', a, unknown],
    ['web.service.x.zz.consul', a, unknown],
    ['web.service.a.b.c.consul', a, unknown],
    ['web.service.east.peer.dc1.dc.consul', a, unknown],
    ['web.connect.consul', a, { form: 'connect', service: 'web', datacenter: '' }],
    ['x.web.connect.dc2.consul', a, { form: 'connect', service: 'web', datacenter: 'dc2' }],
    ['web.connect.east.peer.consul', a, unknown],
    ['web.ingress.consul', a, unknown],
    ['q.query.consul', a, { form: 'query', query: 'q', datacenter: '' }],
    ['Dotted.Name.query.dc1.consul', srv, { form: 'query', query: 'dotted.name', datacenter: 'dc1' }],
    ['_q._tcp.query.consul', srv, { form: 'query', query: 'q', datacenter: '' }],
    ['_q.with.dots._udp.query.dc1.dc.consul', a, { form: 'query', query: 'q.with.dots', datacenter: 'dc1' }],
    ['_q.query.consul', a, { form: 'query', query: '_q', datacenter: '' }],
    ['q.query.east.peer.consul', a, unknown],
    ['query.consul', a, unknown],
    ['web.virtual.consul', a, { form: 'virtual', service: 'web', ...here }],
    ['web.virtual.east.consul', a, { form: 'virtual', service: 'web', datacenter: '', peer: 'east' }],
    ['web.virtual.east.peer.consul', a, { form: 'virtual', service: 'web', datacenter: '', peer: 'east' }],
    ['web.virtual.dc1.dc.consul', a, { form: 'virtual', service: 'web', datacenter: 'dc1', peer: '' }],
    ['n1.node.consul', a, { form: 'node', node: 'n1', ...here }],
    ['a.b.node.dc1.consul', a, { form: 'node', node: 'a.b', datacenter: 'dc1', peer: '' }],
    ['n1.node.east.peer.consul', a, { form: 'node', node: 'n1', datacenter: '', peer: 'east' }],
    ['0a000001.addr.consul', a, { form: 'address', address: '10.0.0.1', name: '0a000001.addr.consul.' }],
    ['0A000001.ADDR.any.thing.CONSUL', a, { form: 'address', address: '10.0.0.1', name: '0a000001.addr.any.thing.CONSUL.' }],
    [
      '20010db8000000000000000000000005.addr.consul',
      a,
      { form: 'address', address: '2001:db8::5', name: '20010db8000000000000000000000005.addr.consul.' },
    ],
    ['zzzzzzzz.addr.consul', a, unknown],
    ['0a0000010.addr.consul', a, unknown],
    ['0a0000.addr.consul', a, { form: 'nothing' }],
    ['x.0a000001.addr.consul', a, unknown],
  ]
  for (const [name, type, expected] of cases) t.same(form(name, type), expected, `${name} ${type === srv ? 'SRV' : 'A'}`)
})

void t.test('the longer of two nested zones wins, and the spelling of the question is kept', async t => {
  const nested = zonesOf('Consul', 'x.consul.')
  t.same(matchZone(['a', 'X', 'CONSUL'], nested), { zone: 'alternative', domain: 'X.CONSUL.', rest: ['a'] })
  t.same(matchZone(['A', 'y', 'Consul'], nested), { zone: 'primary', domain: 'Consul.', rest: ['a', 'y'] })
  t.equal(matchZone(['notconsul'], nested), undefined)
  t.equal(matchZone([], nested), undefined)
})

void t.test('reverse names become addresses only when they are complete', async t => {
  const reverse = (name: string) => reverseAddress(name.split('.'))
  t.equal(reverse('1.0.0.127.in-addr.arpa'), '127.0.0.1')
  t.equal(reverse('1.0.0.127.IN-ADDR.ARPA'), '127.0.0.1')
  t.equal(reverse('0.0.127.in-addr.arpa'), undefined)
  t.equal(reverse('256.0.0.127.in-addr.arpa'), undefined)
  t.equal(reverse(`5.${'0.'.repeat(23)}8.b.d.0.1.0.0.2.ip6.arpa`), '2001:db8::5')
  t.equal(reverse('5.0.ip6.arpa'), undefined)
  t.equal(reverse('x.y'), undefined)
})
