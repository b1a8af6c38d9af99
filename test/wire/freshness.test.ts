/** The fields that only isthmus sends: their bytes, what a real Consul's messages read as, and what a stranger may send in them. */
import * as fc from 'fast-check'
import t from 'tap'
import {
  digestHeartbeat,
  isMarked,
  markedHeartbeat,
  questionHeartbeat,
  markOpen,
  readHeartbeat,
  resendHeartbeat,
  slotBytes,
  slotCount,
  slots,
} from '../../src/wire/freshness.ts'
import { ReplicationMessage, type ReplicationMessage_Open } from '../../src/wire/gen/peerstream.ts'
import { heartbeat, peerStreamService } from '../../src/wire/peer-stream.ts'
import { recordedMessages, recordings } from './recordings.ts'

const { requestSerialize, requestDeserialize } = peerStreamService.streamResources
const travel = (message: ReplicationMessage) => requestDeserialize(requestSerialize(message))
const open: ReplicationMessage_Open = { PeerID: 'id', StreamSecretID: 's', Remote: undefined }

void t.test('the mark of an Open is three bytes behind what Consul has', async t => {
  const hex = (value: ReplicationMessage_Open) => requestSerialize({ Payload: { $case: 'open', value } }).toString('hex')
  t.equal(hex(open), '0a070a026964120173')
  t.equal(hex(markOpen(open)), '0a0a0a026964120173c03e02')
  const back = travel({ Payload: { $case: 'open', value: markOpen(open) } }).Payload
  t.equal(back?.$case === 'open' && isMarked(back.value), true)
  t.equal(isMarked(open), false)
  for (const raw of ['', '01', '03', '8102', '8080808080808080808080']) {
    t.equal(isMarked({ ...open, _unknownFields: { 8000: [Buffer.from(raw, 'hex')] } }), false, raw)
  }
})

void t.test('what rides on a heartbeat arrives', async t => {
  t.equal(requestSerialize(markedHeartbeat).toString('hex'), '2a03c23e00')
  t.same(readHeartbeat(travel(markedHeartbeat)), { marked: true, digest: undefined, answers: 0, question: 0, resend: [] })
  const hashes = Buffer.alloc(slotCount * slotBytes, 7)
  const digest = digestHeartbeat(hashes, 300)
  t.same(readHeartbeat(travel(digest)), { marked: true, digest: hashes, answers: 300, question: 0, resend: [] })
  t.same(readHeartbeat(travel(questionHeartbeat(7))), { marked: false, digest: undefined, answers: 0, question: 7, resend: [] })
  t.ok(requestSerialize(digest).length < 9000)
  const wanted = [0, 1, 9, slots.list, slots.bundle, slots.addresses]
  t.same(readHeartbeat(travel(resendHeartbeat(wanted))), { marked: false, digest: undefined, answers: 0, question: 0, resend: wanted })
})

void t.test('no message of a real Consul reads as marked', async t => {
  let heartbeats = 0
  for (const file of recordings()) {
    for (const { message } of recordedMessages(file)) {
      const payload = message.Payload
      if (payload?.$case === 'open') t.equal(isMarked(payload.value), false)
      if (payload?.$case === 'heartbeat') heartbeats += 1
      t.equal(readHeartbeat(message), undefined)
    }
  }
  t.ok(heartbeats > 5)
  t.equal(readHeartbeat(heartbeat), undefined)
})

void t.test('whatever a stranger sends in the fields is read or passed over, and never throws', async t => {
  const field = fc.tuple(fc.constantFrom(0, 1, 2, 5), fc.constantFrom(1000, 1001, 1002, 1003), fc.uint8Array({ maxLength: 300 }))
  fc.assert(
    fc.property(fc.array(field, { maxLength: 5 }), fields => {
      const body = Buffer.concat(
        fields.map(([type, number, bytes]) => {
          const tag = (number << 3) | type
          const value =
            type === 0
              ? [1]
              : type === 1
                ? new Uint8Array(8)
                : type === 5
                  ? new Uint8Array(4)
                  : [bytes.length % 128, ...bytes.slice(0, bytes.length % 128)]
          return Buffer.from([(tag & 127) | 128, tag >> 7, ...value])
        }),
      )
      const message = ReplicationMessage.decode(Buffer.concat([Buffer.from([0x2a, ...varint(body.length)]), body]))
      const read = readHeartbeat(message)
      return read === undefined || read.resend.every(slot => slot < slotCount)
    }),
  )
  t.pass()
})

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...varint(value >>> 7)]
}
