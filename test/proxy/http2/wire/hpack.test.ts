/** HPACK: the examples of RFC 7541, each fault by name, what hostile bytes may do, and that what is written is what is read. */
import { createHash } from 'node:crypto'
import * as fc from 'fast-check'
import t from 'tap'
import { HpackDecoder } from '../../../../src/proxy/http2/wire/hpack-decoder.ts'
import { HpackEncoder } from '../../../../src/proxy/http2/wire/hpack-encoder.ts'
import { huffmanCodes } from '../../../../src/proxy/http2/wire/huffman.ts'
import { staticFields } from '../../../../src/proxy/http2/wire/static-table.ts'
import { hex, huffman, index, integer, literal, ofBits, sizeUpdate, text, type Literal } from './blocks.ts'

const codes = huffmanCodes()

const numRuns = process.env['ISTHMUS_DEEP'] === '1' ? 6000 : 500
const limits = { headerListBytes: 1 << 20, headerCount: 1000 }

function decode(block: Buffer, decoder = new HpackDecoder(4096), most = limits) {
  const decoded = decoder.decode(block, 0, block.length, most)
  const { fields, sensitive, malformed, tooLarge } = decoder
  return decoded ? { fields, sensitive: [...(sensitive ?? [])], malformed, tooLarge } : 'fault'
}

function encode(encoder: HpackEncoder, fields: readonly string[], sensitive?: ReadonlySet<string>): Buffer {
  const into = Buffer.alloc(encoder.bound(fields) + 3)
  const end = encoder.encode(fields, sensitive, into, 3)
  if (end > into.length) throw new Error('more than its bound')
  return into.subarray(3, end)
}

const fine = (...fields: string[]) => ({ fields, sensitive: [], malformed: false, tooLarge: 0 })

t.test('single representations are read as in RFC 7541 C.2', async t => {
  const inserted = new HpackDecoder(4096)
  t.strictSame(
    decode(hex('400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572'), inserted),
    fine('custom-key', 'custom-header'),
  )
  t.equal(inserted['tableBytes'], 55)
  t.strictSame(decode(hex('040c 2f73 616d 706c 652f 7061 7468')), fine(':path', '/sample/path'))
  t.strictSame(decode(hex('1008 7061 7373 776f 7264 0673 6563 7265 74')), { ...fine('password', 'secret'), sensitive: ['password'] })
  t.strictSame(decode(hex('82')), fine(':method', 'GET'))
})

const requests = [
  [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'www.example.com'],
  [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'www.example.com', 'cache-control', 'no-cache'],
  [':method', 'GET', ':scheme', 'https', ':path', '/index.html', ':authority', 'www.example.com', 'custom-key', 'custom-value'],
]
const dates = ['Mon, 21 Oct 2013 20:13:21 GMT', 'Mon, 21 Oct 2013 20:13:22 GMT'] as const
const from = 'https://www.example.com'
const cookie = 'foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1'
const responses = [
  [':status', '302', 'cache-control', 'private', 'date', dates[0], 'location', from],
  [':status', '307', 'cache-control', 'private', 'date', dates[0], 'location', from],
  [':status', '200', 'cache-control', 'private', 'date', dates[1], 'location', from, 'content-encoding', 'gzip', 'set-cookie', cookie],
]
const examples: { name: string; lists: string[][]; tableBytes: number[]; blocks: string[] }[] = [
  {
    name: 'C.3, requests without Huffman codes',
    lists: requests,
    tableBytes: [57, 110, 164],
    blocks: [
      '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
      '8286 84be 5808 6e6f 2d63 6163 6865',
      '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65',
    ],
  },
  {
    name: 'C.4, requests with Huffman codes',
    lists: requests,
    tableBytes: [57, 110, 164],
    blocks: [
      '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
      '8286 84be 5886 a8eb 1064 9cbf',
      '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
    ],
  },
  {
    // The examples have a table of 256 bytes, which the first block says here.
    name: 'C.5, responses without Huffman codes, with evictions',
    lists: responses,
    tableBytes: [222, 222, 215],
    blocks: [
      `3fe1 01 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768
       7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d`,
      '4803 3330 37c1 c0bf',
      `88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48
       514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31`,
    ],
  },
  {
    name: 'C.6, responses with Huffman codes, with evictions',
    lists: responses,
    tableBytes: [222, 222, 215],
    blocks: [
      `3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8
       e9ae 82ae 43d3`,
      '4883 640e ffc1 c0bf',
      `88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af
       2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07`,
    ],
  },
]
for (const { name, lists, tableBytes, blocks } of examples)
  t.test(`a connection is read as in RFC 7541 ${name}`, async t => {
    const decoder = new HpackDecoder(4096)
    for (const [i, block] of blocks.entries()) {
      t.strictSame(decode(hex(block), decoder), fine(...lists[i]!))
      t.equal(decoder['tableBytes'], tableBytes[i])
    }
  })

t.test('the tables are those of the appendices', async t => {
  // Over a line for each symbol of appendix B, its bits; EOS is the last.
  const digest = createHash('sha256').update(codes.map(code => `${code}\n`).join(''))
  t.equal(digest.digest('hex'), '1562e6130a3910728d573a0061e46e3c79fab61b9d3209408c189bd96f8c07bd')
  t.equal(staticFields.length, 62)
  for (const [at, name, value] of [
    [1, ':authority', ''],
    [2, ':method', 'GET'],
    [14, ':status', '500'],
    [16, 'accept-encoding', 'gzip, deflate'],
    [31, 'content-type', ''],
    [61, 'www-authenticate', ''],
  ] as const)
    t.strictSame(decode(index(at)), fine(name, value))
})

const good = literal('plain', text('a'), text('b'))
const a64 = text('a'.repeat(64))
const faults: [string, Buffer][] = [
  ['index 0', hex('80')],
  ['an index beyond the static table when the other is empty', index(62)],
  ['an index that is just behind the dynamic table', Buffer.concat([literal('inserting', text('a'), text('b')), index(63)])],
  ['a name whose index is beyond the tables', literal('plain', 62, text('b'))],
  ['an index that never ends', Buffer.concat([hex('ff'), Buffer.alloc(64, 0x80)])],
  ['an index of more than 29 bits', hex('ff 80 80 80 80 01')],
  ['an index that the block cuts off', hex('ff 80')],
  ['a literal without a name', hex('40')],
  ['a literal without a value', hex('40 01 61')],
  ['a name that is longer than the block', hex('00 05 61 62')],
  ['a value that is longer than the block', hex('00 01 61 02 62')],
  ['a length of more than 29 bits', hex('00 7f ff ff ff ff 0f 61')],
  ['a length that the block cuts off', hex('00 01 61 7f 80')],
  ['padding of zeros', literal('plain', text('a'), huffman('a', '0000000'))],
  ['padding that is not all ones', literal('plain', text('a'), ofBits(`${codes[97]}110`))],
  ['padding of eight bits', literal('plain', text('a'), ofBits(`${codes[38]}11111111`))],
  ['padding of more than eight bits', literal('plain', text('a'), huffman('a', '11111111111'))],
  ['EOS in a string', literal('plain', text('a'), ofBits(`${codes[256]}11`))],
  ['EOS in the middle of a string', literal('plain', text('a'), ofBits(`${codes[256]}${codes[97]}11111`))],
  ['EOS in a name', literal('plain', ofBits(`${codes[256]}11`), text('a'))],
  ['a code that the string cuts off', literal('plain', text('a'), ofBits(codes[0]!.slice(0, 8)))],
  ['a size update above our setting', sizeUpdate(4097)],
  ['a size update behind a field', Buffer.concat([good, sizeUpdate(0)])],
  ['three size updates', Buffer.concat([sizeUpdate(0), sizeUpdate(100), sizeUpdate(200)])],
  ['a size update that the block cuts off', hex('3f ff')],
  ['a size update of more than 29 bits', hex('3f ff ff ff ff 0f')],
  ['an entry that a size update dropped', Buffer.concat([sizeUpdate(0), literal('inserting', text('a'), text('b')), index(62)])],
  [
    'an entry that was pushed out',
    Buffer.concat([sizeUpdate(100), ...['b', 'c'].map(each => literal('inserting', a64, text(each))), index(63)]),
  ],
]
for (const [name, block] of faults)
  t.test(`it is a fault: ${name}`, async t => {
    t.equal(decode(block), 'fault')
    const behind = new HpackDecoder(4096)
    t.equal(decode(Buffer.concat([good, block]), behind), 'fault', 'behind a field too')
  })

t.test('a size update may be the highest allowed, may come twice, and may be the whole block', async t => {
  const decoder = new HpackDecoder(8192)
  t.strictSame(decode(Buffer.concat([sizeUpdate(8192), literal('inserting', text('a'), text('b'))]), decoder), fine('a', 'b'))
  t.strictSame(decode(index(62), decoder), fine('a', 'b'))
  t.strictSame(decode(Buffer.concat([sizeUpdate(0), sizeUpdate(4096)]), decoder), fine())
  t.equal(decode(index(62), decoder), 'fault')
  t.equal(decode(sizeUpdate(1), new HpackDecoder(0)), 'fault')
  t.strictSame(decode(Buffer.alloc(0)), fine())
})

t.test('a field that is larger than the table empties it, and may take its name from there', async t => {
  const decoder = new HpackDecoder(4096)
  decode(literal('inserting', text('name'), text('1')), decoder)
  const large = 'x'.repeat(5000)
  t.strictSame(decode(literal('inserting', 62, text(large)), decoder), fine('name', large))
  t.equal(decoder['tableBytes'], 0)
  t.equal(decode(index(62), decoder), 'fault')
})

const malformed: [string, string, string][] = [
  ['an upper-case letter in a name', 'X-a', 'b'],
  ['a space in a name', 'a b', 'c'],
  ['a colon in a name', 'a:b', 'c'],
  ['two colons before a name', '::path', 'c'],
  ['nothing but a colon for a name', ':', 'c'],
  ['no name', '', 'c'],
  ['a control character in a name', 'a\n', 'c'],
  ['a byte above ASCII in a name', 'a\xe9', 'c'],
  ['NUL in a value', 'a', 'b\0c'],
  ['CR in a value', 'a', 'b\rc'],
  ['LF in a value', 'a', 'b\nc'],
  ['DEL in a value', 'a', 'b\x7fc'],
  ['ESC in a value', 'a', '\x1b'],
  ['a space before a value', 'a', ' b'],
  ['a space behind a value', 'a', 'b '],
  ['a tab before a value', 'a', '\tb'],
  ['a tab behind a value', 'a', 'b\t'],
  ['nothing but a space for a value', 'a', ' '],
]
for (const [name, field, value] of malformed)
  t.test(`it is malformed, though no fault: ${name}`, async t => {
    for (const coding of [text, huffman]) {
      const decoder = new HpackDecoder(4096)
      const expected = { ...fine(field, value), malformed: true }
      t.strictSame(decode(literal('inserting', coding(field), coding(value)), decoder), expected)
      t.strictSame(decode(good, decoder), fine('a', 'b'), 'the next block is not')
      t.strictSame(decode(index(62), decoder), expected, 'and is so wherever the entry is used')
      const nameOnly = decode(literal('plain', 62, text('fine')), decoder)
      t.strictSame(nameOnly, { ...fine(field, 'fine'), malformed: field !== 'a' }, 'a bad name stays bad, a bad value is left behind')
    }
  })

t.test('what is allowed is not malformed', async t => {
  for (const [name, value] of [
    ["!#$%&'*+-.^_`|~09az", '!~\x80\xff'],
    [':protocol', ''],
    ['a', 'b\tc d'],
  ] as const)
    for (const coding of [text, huffman]) t.strictSame(decode(literal('plain', coding(name), coding(value))), fine(name, value))
})

t.test('a list may be as large as the limits say, and is not gathered above; the table is kept up', async t => {
  const block = Buffer.concat([
    literal('inserting', text('a'), text('1')),
    literal('never', text('b'), text('2')),
    literal('inserting', text('c'), text('3')),
  ])
  const at = (headerListBytes: number, headerCount: number) => {
    const decoder = new HpackDecoder(4096)
    const read = decode(block, decoder, { headerListBytes, headerCount })
    t.strictSame(decode(Buffer.concat([index(62), index(63)]), decoder), fine('c', '3', 'a', '1'))
    return read
  }
  const all = { ...fine('a', '1', 'b', '2', 'c', '3'), sensitive: ['b'] }
  t.strictSame(at(102, 3), all)
  t.strictSame(at(101, 3), { ...all, fields: ['a', '1', 'b', '2'], tooLarge: 1 })
  t.strictSame(at(102, 2), { ...all, fields: ['a', '1', 'b', '2'], tooLarge: 2 })
  t.strictSame(at(33, 3), { ...fine(), tooLarge: 1 })
  t.strictSame(at(102, 0), { ...fine(), tooLarge: 2 })
})

t.test('a small block that stands for a large list holds no more than its limits', async t => {
  const decoder = new HpackDecoder(4096)
  decode(literal('inserting', text('a'), text('x'.repeat(4000))), decoder)
  decode(Buffer.alloc(1 << 20, index(62)), decoder, { headerListBytes: 65_536, headerCount: 1000 })
  t.equal(decoder.fields.length, 32)
  t.equal(decoder.tooLarge, 1)
})

const name = fc.oneof(
  fc.constantFrom('cookie', 'authorization', ':path', ':status', 'content-type', 'x-a', 'x-b', 'grpc-timeout', 'etag', 'date', '__proto__'),
  fc.stringMatching(/^[a-z0-9-]{1,20}$/),
)
const value = fc.oneof(
  fc.constantFrom(
    '',
    '/',
    '200',
    '404',
    'application/grpc',
    'a'.repeat(300),
    'b'.repeat(300),
    'c'.repeat(300),
    'd'.repeat(990),
    'e'.repeat(20_000),
  ),
  fc.stringMatching(/^[!-~\x80-\xff]{0,40}$/),
)
const list = fc.array(fc.tuple(name, value), { maxLength: 20 }).map(pairs => pairs.flat())
const secrets = fc.option(
  fc.uniqueArray(name, { maxLength: 3 }).map(names => new Set(names)),
  { nil: undefined, freq: 5 },
)

t.test('what is written is what is read, whatever came before and however the table is resized', async () => {
  const step = fc.oneof(
    {
      weight: 1,
      arbitrary: fc.record({ resize: fc.array(fc.oneof(fc.nat(5000), fc.constantFrom(0, 64, 1 << 30)), { minLength: 1, maxLength: 3 }) }),
    },
    { weight: 6, arbitrary: fc.record({ list, secrets, times: fc.integer({ min: 1, max: 3 }) }) },
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), steps => {
      const encoder = new HpackEncoder()
      const decoder = new HpackDecoder(4096)
      for (const each of steps) {
        if ('resize' in each) {
          for (const bytes of each.resize) encoder.setTableBytes(bytes)
          continue
        }
        const { list: fields, secrets: sensitive } = each
        const secret = new Set<string>()
        for (let i = 0; i < fields.length; i += 2) {
          const short = /^(?:cookie|authorization)$/.test(fields[i]!) && fields[i + 1]!.length < 20
          if (short || sensitive?.has(fields[i]!)) secret.add(fields[i]!)
        }
        for (let time = 0; time < each.times; time++) {
          const read = decode(encode(encoder, fields, sensitive), decoder)
          if (JSON.stringify(read) !== JSON.stringify({ ...fine(...fields), sensitive: [...secret] }))
            throw new Error(`wrote ${JSON.stringify(fields)}, read ${JSON.stringify(read)}`)
          if (decoder['tableBytes'] !== encoder['tableBytes']) throw new Error('the tables differ')
        }
      }
    }),
    { numRuns },
  )
})

t.test('a field goes into the table the second time, and what changes leaves only its name there', async t => {
  const encoder = new HpackEncoder()
  const sizes = ['1', '2', '3', '4'].map(id => encode(encoder, [':method', 'POST', 'x-same', 'same', 'x-id', id]).length)
  t.strictSame(sizes, [1 + 13 + 8, 1 + 13 + 8, 1 + 1 + 4, 1 + 1 + 4])
  t.equal(encode(encoder, ['x-same', 'same']).length, 1)
})

t.test('what must not go into a table does not', async t => {
  const encoder = new HpackEncoder()
  const fields = [
    'content-length',
    '1',
    'etag',
    'e',
    'last-modified',
    'l',
    'set-cookie',
    's',
    'if-none-match',
    'i',
    'location',
    '/',
    'date',
    'd',
  ]
  const large = ['x-large', 'x'.repeat(1000)]
  const short = ['cookie', 'c=1234567890123456', 'authorization', 'Basic YTpi']
  for (let time = 0; time < 3; time++) {
    encode(encoder, [...fields, ...large, ...short, 'x-secret', 's'], new Set(['x-secret']))
    t.equal(encoder['tableBytes'], 0)
  }
  for (let time = 0; time < 2; time++) encode(encoder, ['cookie', 'c=12345678901234567890'])
  t.equal(encoder['tableBytes'], 60)
})

t.test('a size update says the least there was, then the last', async t => {
  const encoder = new HpackEncoder()
  const after = (...sizes: number[]) => {
    for (const each of sizes) encoder.setTableBytes(each)
    return encode(encoder, []).toString('hex')
  }
  const said = (...sizes: number[]) => Buffer.concat(sizes.map(sizeUpdate)).toString('hex')
  t.equal(after(), said())
  t.equal(after(4096, 65_536), said(), 'no more than we ever use')
  t.equal(after(1000), said(1000))
  t.equal(after(1000), said())
  t.equal(after(0, 2000), said(0, 2000))
  t.equal(after(100, 3000, 2000), said(100, 2000))
  t.equal(after(50, 2000), said(50, 2000), 'though it is again what it was')
  t.equal(after(4096), said(4096))
})

t.test('names without end are not remembered without end', async t => {
  const encoder = new HpackEncoder()
  const decoder = new HpackDecoder(4096)
  for (let i = 0; i < 5000; i++) {
    const fields = [`x-${i}`, 'a', `x-${i}`, 'a', 'x-constant', 'a', 'n'.repeat(2000), `${i}`]
    if (JSON.stringify(decode(encode(encoder, fields), decoder)) !== JSON.stringify(fine(...fields))) t.fail(`differs at ${i}`)
    if (encoder['names'].size > 256) t.fail('too many names')
  }
})

t.test('characters above a byte do not stop the writer', async t => {
  const encoder = new HpackEncoder()
  for (const value of ['\u20ac', '\u20ac'.repeat(50)])
    t.equal((decode(encode(encoder, ['a', value])) as { fields: string[] }).fields.length, 2)
})

const coded = fc.tuple(
  fc.oneof(name, fc.string({ maxLength: 8 })),
  fc.oneof(value, fc.string({ maxLength: 8 })),
  fc.boolean(),
  fc.boolean(),
)
const kind = fc.constantFrom<Literal>('inserting', 'plain', 'never')
const representation = fc.oneof(
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 70 }).map(index) },
  {
    weight: 5,
    arbitrary: fc
      .tuple(kind, coded)
      .map(([how, [field, content, first, second]]) =>
        literal(how, first ? text(field) : huffman(field), second ? text(content) : huffman(content)),
      ),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(kind, fc.integer({ min: 1, max: 70 }), coded).map(([how, at, [, content]]) => literal(how, at, text(content))),
  },
  { weight: 1, arbitrary: fc.nat(5000).map(sizeUpdate) },
  { weight: 1, arbitrary: fc.nat(0x7fffffff).map(length => integer(0x80, 7, length)) },
)
const mutations = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 })
const hostile = fc.oneof(
  fc.uint8Array({ maxLength: 200 }).map(bytes => Buffer.from(bytes)),
  fc.tuple(fc.array(representation, { maxLength: 12 }), mutations).map(([parts, changes]) => {
    const block = Buffer.concat(parts)
    for (const [at, octet] of changes) if (block.length > 0) block[at % block.length] = octet
    return block
  }),
)

t.test('whatever the bytes are, reading ends within its bounds and throws nothing', async () => {
  fc.assert(
    fc.property(fc.array(hostile, { maxLength: 8 }), fc.constantFrom(0, 100, 4096, 10_000), (blocks, tableBytes) => {
      const decoder = new HpackDecoder(tableBytes)
      const most = { headerListBytes: 4000, headerCount: 10 }
      for (const block of blocks) {
        const before = Buffer.from(block)
        decoder.decode(block, 0, block.length, most)
        let bytes = 0
        for (const each of decoder.fields) bytes += each.length + 16
        if (bytes > 4000 || decoder.fields.length > 20 || decoder.fields.length % 2 > 0) throw new Error('the list is above its limits')
        const held = decoder['table'].reduce(
          (sum, { name: field, value: content }) => sum + (field + content === '' ? 0 : field.length + content.length + 32),
          0,
        )
        if (held > decoder['tableBytes'] || decoder['tableBytes'] > Math.max(4096, tableBytes))
          throw new Error('the table is above its limit')
        if (!before.equals(block)) throw new Error('it wrote into the block')
      }
    }),
    { numRuns: numRuns * 4 },
  )
})
