// Writing messages, read back by another implementation.
import { decode } from 'dns-packet'
import * as fc from 'fast-check'
import { isIPv6 } from 'node:net'
import t from 'tap'
import { readQuery, type Query } from '../../../src/wire/dns/query.ts'
import { rcodes, type DnsRecord } from '../../../src/wire/dns/records.ts'
import { addressBytes, addressText } from '../../../src/lib/address-bytes.ts'
import { questionBytes, writeQuery, writeRefusal, writeReply, type Reply } from '../../../src/wire/dns/writer.ts'

function queryFor(name: string, type = 1): Query {
  const read = readQuery(writeQuery(7, { flags: 0x0100, question: questionBytes(name, type)!, edns: undefined }))
  if (read.kind !== 'query') throw new Error('not a query')
  return read.query
}

function reply(parts: Partial<Reply>): Reply {
  return {
    rcode: rcodes.noError,
    authoritative: true,
    truncated: false,
    recursionAvailable: false,
    answer: [],
    authority: [],
    additional: [],
    opt: true,
    ...parts,
  }
}

const everyKind: DnsRecord[] = [
  { type: 'A', name: 'web.service.consul.', ttl: 1, address: '127.0.0.10' },
  { type: 'AAAA', name: 'web.service.consul.', ttl: 2, address: '2001:db8::5' },
  { type: 'CNAME', name: 'a.service.consul.', ttl: 3, target: 'web.service.consul.' },
  { type: 'NS', name: 'consul.', ttl: 4, target: 'n1.node.dc1.consul.' },
  { type: 'PTR', name: '1.0.0.127.in-addr.arpa.', ttl: 5, target: 'n1.node.dc1.consul.' },
  { type: 'SRV', name: 'web.service.consul.', ttl: 6, priority: 1, weight: 10, port: 8080, target: '7f00000a.addr.dc1.consul.' },
  { type: 'TXT', name: 'n1.node.consul.', ttl: 7, text: 'rack=r1' },
  {
    type: 'SOA',
    name: 'consul.',
    ttl: 8,
    mname: 'ns.consul.',
    rname: 'hostmaster.consul.',
    serial: 4_000_000_000,
    refresh: 3600,
    retry: 600,
    expire: 86_400,
    minimum: 0,
  },
]

void t.test('every kind of record is written so that another implementation reads it back, compressed or not', async t => {
  const query = queryFor('web.service.consul.')
  const parts = { answer: everyKind, authority: everyKind, additional: everyKind }
  const packed = writeReply(query, reply(parts), { compress: true })!
  const plain = writeReply(query, reply(parts), { compress: false })!
  const { answers, authorities, additionals } = decode(plain)
  const read = decode(packed)
  t.same([read.answers, read.authorities, read.additionals], [answers, authorities, additionals])
  t.match(answers, [
    { type: 'A', name: 'web.service.consul', ttl: 1, data: '127.0.0.10' },
    { type: 'AAAA', data: '2001:db8::5' },
    { type: 'CNAME', name: 'a.service.consul', data: 'web.service.consul' },
    { type: 'NS', name: 'consul', data: 'n1.node.dc1.consul' },
    { type: 'PTR', data: 'n1.node.dc1.consul' },
    { type: 'SRV', data: { priority: 1, weight: 10, port: 8080, target: '7f00000a.addr.dc1.consul' } },
    { type: 'TXT', data: [Buffer.from('rack=r1')] },
    { type: 'SOA', data: { mname: 'ns.consul', rname: 'hostmaster.consul', serial: 4_000_000_000, refresh: 3600 } },
  ])
  t.ok(packed.length < plain.length / 1.5, 'and compression pays')
})

void t.test('an SRV target is never compressed, and later names point at it', async t => {
  const srv = everyKind.filter(record => record.type === 'SRV')
  const target: DnsRecord = { type: 'A', name: '7f00000a.addr.dc1.consul.', ttl: 0, address: '127.0.0.10' }
  const bytes = writeReply(queryFor('web.service.consul.'), reply({ answer: srv, additional: [target] }), { compress: true })!
  t.equal(bytes.toString('latin1').split('7f00000a').length - 1, 1, 'written once')
  t.ok(bytes.toString('latin1').includes('\x087f00000a\x04addr\x03dc1\x06consul\0'), 'in full')
})

void t.test('a record whose name is no DNS name is left out, and the counts say so', async t => {
  const long = `${'x'.repeat(64)}.node.dc1.consul.`
  const bytes = writeReply(
    queryFor('web.service.consul.'),
    reply({
      answer: [
        { type: 'SRV', name: 'web.service.consul.', ttl: 0, priority: 1, weight: 1, port: 1, target: long },
        { type: 'CNAME', name: 'web.service.consul.', ttl: 0, target: 'a..b.' },
        { type: 'CNAME', name: 'web.service.consul.', ttl: 0, target: '.a.' },
        { type: 'CNAME', name: 'web.service.consul.', ttl: 0, target: 'no-dot-at-the-end' },
        { type: 'CNAME', name: 'web.service.consul.', ttl: 0, target: `${'ü'.repeat(32)}.consul.` },
        { type: 'CNAME', name: '', ttl: 0, target: 'a.' },
        { type: 'A', name: 'web.service.consul.', ttl: 0, address: '10.0.0.1' },
      ],
      additional: [{ type: 'TXT', name: Array.from({ length: 60 }, () => 'abcde').join('.'), ttl: 0, text: '' }],
    }),
    { compress: true },
  )!
  const read = decode(bytes)
  t.same(
    read.answers?.map(each => each.type),
    ['A'],
  )
  t.same(read.additionals, [])
})

void t.test('a text of more than 255 bytes becomes several strings, an empty one a single empty string', async t => {
  const texts = ['x'.repeat(600), '']
  const answer = texts.map((text): DnsRecord => ({ type: 'TXT', name: 'consul.', ttl: 0, text }))
  const read = decode(writeReply(queryFor('consul.', 16), reply({ answer }), { compress: true })!)
  const strings = read.answers!.map(each => (each as { data: Buffer[] }).data.map(part => part.length))
  t.same(strings, [[255, 255, 90], [0]])
})

void t.test('a message that would be longer than any can be is not written', async t => {
  const answer = Array.from({ length: 200 }, (): DnsRecord => ({ type: 'TXT', name: 'consul.', ttl: 0, text: 'x'.repeat(400) }))
  t.equal(writeReply(queryFor('consul.', 16), reply({ answer }), { compress: true }), undefined)
})

void t.test('names beyond the reach of a pointer are written in full', async t => {
  const answer = Array.from({ length: 900 }, (_, i): DnsRecord => ({
    type: 'CNAME',
    name: 'consul.',
    ttl: 0,
    target: `host-${i}.far.example.`,
  }))
  const again = answer.toReversed().map((record): DnsRecord => ({ ...record, name: 'far.example.' }))
  const bytes = writeReply(queryFor('consul.'), reply({ answer: [...answer, ...again] }), { compress: true })!
  t.ok(bytes.length > 0x4000)
  t.same(
    decode(bytes).answers!.map(each => `${(each as { data: string }).data}.`),
    [...answer, ...again].map(each => (each as { target: string }).target),
  )
})

void t.test('a refusal is a bare header', async t => {
  t.same(writeRefusal({ id: 0x1234, flags: 0x0100, rcode: rcodes.formatError }), Buffer.from('123481010000000000000000', 'hex'))
})

void t.test('BADVERS carries its upper bits in the OPT record', async t => {
  const query = { ...queryFor('consul.'), edns: { udpSize: 1232, version: 1, dnssecOk: false, clientSubnet: undefined, options: false } }
  const read = decode(writeReply(query, reply({ rcode: rcodes.badVersion }), { compress: true })!)
  t.match(read.additionals, [{ type: 'OPT', extendedRcode: 1, ednsVersion: 0 }])
  t.equal((read as { rcode?: string }).rcode, 'NOERROR')
})

void t.test('addresses survive bytes and back, in their canonical text', async t => {
  const canonical: [string, string][] = [
    ['0:0:0:0:0:0:0:0', '::'],
    ['::1', '::1'],
    ['1::', '1::'],
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['1:0:2:3:4:5:6:7', '1:0:2:3:4:5:6:7'],
    ['::ffff:10.0.0.1', '::ffff:a00:1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['10.0.0.1', '10.0.0.1'],
  ]
  for (const [given, text] of canonical) t.equal(addressText(addressBytes(given)), text, given)
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), bytes => {
      const text = addressText(bytes)
      return isIPv6(text) && addressBytes(text).equals(bytes)
    }),
  )
})
