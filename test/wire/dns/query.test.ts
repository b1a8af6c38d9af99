// Reading queries: what is one, what is refused, what is ignored; nothing throws.
import { encode } from 'dns-packet'
import * as fc from 'fast-check'
import t from 'tap'
import { isPlain, readQuery } from '../../../src/wire/dns/query.ts'

const runs = process.env['ISTHMUS_DEEP'] === '1' ? 50_000 : 2_000

function header(flags: number, counts: [number, number, number, number]): Buffer {
  const out = Buffer.alloc(12)
  out.writeUInt16BE(0x1234, 0)
  out.writeUInt16BE(flags, 2)
  counts.forEach((count, i) => out.writeUInt16BE(count, 4 + 2 * i))
  return out
}

const question = Buffer.from('\x03WeB\x07service\x06consul\x00\x00\x21\x00\x01', 'latin1')

void t.test('a query is read with its name as it was spelled and its question byte for byte', async t => {
  const read = readQuery(Buffer.concat([header(0x0100, [1, 0, 0, 0]), question]))
  t.same(read, {
    kind: 'query',
    query: {
      id: 0x1234,
      flags: 0x0100,
      recursionDesired: true,
      question,
      labels: ['WeB', 'service', 'consul'],
      name: 'WeB.service.consul.',
      type: 33,
      class: 1,
      edns: undefined,
    },
  })
})

void t.test('an OPT record is read, with its client subnet', async t => {
  const message = encode({
    type: 'query',
    id: 7,
    questions: [{ name: 'a.consul', type: 'A' }],
    additionals: [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize: 4096,
        extendedRcode: 0,
        ednsVersion: 0,
        flags: 0x8000,
        flag_do: true,
        options: [{ code: 8, data: Buffer.from([0, 1, 24, 0, 10, 1, 2]) }] as never,
      },
    ],
  })
  const read = readQuery(message)
  t.same(read.kind === 'query' && read.query.edns, {
    udpSize: 4096,
    version: 0,
    dnssecOk: true,
    clientSubnet: Buffer.from([0, 1, 24, 0, 10, 1, 2]),
    options: true,
  })
})

void t.test('what is no query is refused by a code or ignored', async t => {
  const one: [number, number, number, number] = [1, 0, 0, 0]
  const name = (bytes: number[]) => Buffer.concat([header(0, one), Buffer.from(bytes), Buffer.from([0, 1, 0, 1])])
  const opt = Buffer.from([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0])
  const cases: [string, Buffer, string | number][] = [
    ['nothing', Buffer.alloc(0), 'ignored'],
    ['half a header', Buffer.alloc(11), 'ignored'],
    ['a response, which could start a loop', Buffer.concat([header(0x8000, one), question]), 'ignored'],
    ['a response that is malformed', header(0x8000, [9, 9, 9, 9]), 'ignored'],
    ['an update', Buffer.concat([header(0x2800, one), question]), 4],
    ['no question', header(0, [0, 0, 0, 0]), 1],
    ['two questions', Buffer.concat([header(0, [2, 0, 0, 0]), question, question]), 1],
    ['a question that is missing', header(0, one), 1],
    ['a question cut short', Buffer.concat([header(0, one), question.subarray(0, -1)]), 1],
    ['a name that points at itself', name([0xc0, 12]), 1],
    ['a name that points into the header', name([0xc0, 0]), 1],
    ['a label of 64 bytes', name([64, ...Array.from({ length: 64 }, () => 97), 0]), 1],
    [
      'a name of more than 255 bytes',
      name([...Array.from({ length: 5 }, () => [63, ...Array.from({ length: 63 }, () => 97)]).flat(), 0]),
      1,
    ],
    ['an additional record that is missing', Buffer.concat([header(0, [1, 0, 0, 1]), question]), 1],
    ['two OPT records', Buffer.concat([header(0, [1, 0, 0, 2]), question, opt, opt]), 1],
    ['three additional records', Buffer.concat([header(0, [1, 0, 0, 3]), question, opt, opt, opt]), 1],
    ['65,535 answers that are not there', Buffer.concat([header(0, [1, 0xffff, 0, 0]), question]), 1],
  ]
  for (const [what, message, outcome] of cases) {
    const read = readQuery(message)
    t.equal(read.kind === 'refused' ? read.rcode : read.kind, outcome, what)
  }
})

void t.test('labels with dots, blanks or bytes that are no text make a name that is not plain', async t => {
  const plain = (label: string) => {
    const bytes = Buffer.from(label, 'latin1')
    const read = readQuery(
      Buffer.concat([header(0, [1, 0, 0, 0]), Buffer.from([bytes.length]), bytes, Buffer.from('\x06consul\x00\x00\x01\x00\x01', 'latin1')]),
    )
    return read.kind === 'query' && isPlain(read.query)
  }
  t.same(['web', '_x', 'a.b', 'a b', 'a\0', '\xff', 'a\\b'].map(plain), [true, true, false, false, false, false, true])
})

void t.test('random bytes never throw, and never become a query with more than one name', async t => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 600 }), bytes => {
      const read = readQuery(Buffer.from(bytes))
      return read.kind !== 'query' || read.query.question.length <= 259
    }),
    { numRuns: runs },
  )
  // The same, past the checks of the header.
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.integer({ min: 0, max: 2 }), (bytes, additional) => {
      const read = readQuery(Buffer.concat([header(0, [1, 0, 0, additional]), question, Buffer.from(bytes)]))
      return read.kind !== 'ignored'
    }),
    { numRuns: runs },
  )
  t.pass(`${runs} runs each`)
})
