/** Every message that real Consul and the recorder exchanged survives our codec byte for byte, nested payloads included. */
import t from 'tap'
import { PeeringServerAddresses, PeeringTrustBundle } from '../../src/wire/gen/peering.ts'
import { ExportedService, ExportedServiceList, ReplicationMessage } from '../../src/wire/gen/peerstream.ts'
import {
  acknowledgement,
  formatNonce,
  heartbeat,
  peerStreamService,
  refusal,
  subscription,
  terminated,
  typeUrls,
} from '../../src/wire/peer-stream.ts'
import { recordedMessages, recordings } from './recordings.ts'

const payloads = {
  [typeUrls.service]: ExportedService,
  [typeUrls.list]: ExportedServiceList,
  [typeUrls.bundle]: PeeringTrustBundle,
  [typeUrls.addresses]: PeeringServerAddresses,
} as const

/** Sent on purpose to see it refused. */
const garbage = new Set(['0a0b0c', 'ffffff', 'ff'])

const hex = (message: ReplicationMessage) => peerStreamService.streamResources.requestSerialize(message).toString('hex')

void t.test('recorded messages decode and encode to the same bytes', async t => {
  let messages = 0
  let nested = 0
  for (const file of recordings()) {
    for (const { hex: recorded, message } of recordedMessages(file)) {
      messages += 1
      t.equal(hex(message), recorded, file)
      const resource = message.Payload?.$case === 'response' ? message.Payload.value.Resource : undefined
      const codec = resource === undefined ? undefined : payloads[resource.typeUrl as keyof typeof payloads]
      if (!resource || !codec) continue
      try {
        const bytes = codec.encode(codec.decode(resource.value) as never).finish()
        nested += 1
        t.equal(Buffer.from(bytes).toString('hex'), resource.value.toString('hex'), `${file} ${resource.typeUrl}`)
      } catch (error) {
        t.ok(garbage.has(resource.value.toString('hex')), `${file}: ${resource.value.toString('hex')} ${String(error)}`)
      }
    }
  }
  t.ok(messages > 400, `${messages} messages`)
  t.ok(nested > 80, `${nested} payloads`)
})

void t.test('the small messages have the bytes that the specification prints', async t => {
  const bundle = Buffer.from(typeUrls.bundle).toString('hex')
  const service = Buffer.from(typeUrls.service).toString('hex')
  t.equal(hex(subscription(typeUrls.service, '')), `124a1a48${service}`)
  t.equal(hex(acknowledgement(typeUrls.bundle, formatNonce(1))), `1254120830303030303030311a48${bundle}`)
  t.equal(hex(terminated), '2200')
  t.equal(hex(heartbeat), '2a00')
  const nack = refusal(typeUrls.service, '00000001', 13, 'golden nack test')
  const recorded = recordedMessages('02-fake-dialer--01-basic-session.json').find(
    each => each.message.Payload?.$case === 'request' && each.message.Payload.value.Error,
  )
  t.equal(hex(nack), recorded?.hex)
})

void t.test('nonces are eight lower-case hex digits', async t => {
  t.same([1, 10, 255, 0xffffffff].map(formatNonce), ['00000001', '0000000a', '000000ff', 'ffffffff'])
})

void t.test('methods have the paths that Consul serves', async t => {
  t.equal(peerStreamService.exchangeSecret.path, '/hashicorp.consul.internal.peerstream.PeerStreamService/ExchangeSecret')
  t.equal(peerStreamService.streamResources.path, '/hashicorp.consul.internal.peerstream.PeerStreamService/StreamResources')
})
