/**
 * The accepting end in the hands of a test: takes any secret and gives every stream to the test. In plaintext, so that a dialer that
 * is to meet it must allow that. It ends with the test.
 */
import { Server, ServerCredentials, status, type Metadata, type sendUnaryData, type ServerUnaryCall } from '@grpc/grpc-js'
import type { Test } from 'tap'
import type { StreamCall } from '../../../src/agent/peering/acceptor.ts'
import { encodeToken } from '../../../src/mesh/peering-token.ts'
import type { ExchangeSecretRequest, ExchangeSecretResponse } from '../../../src/wire/gen/peerstream.ts'
import { peerStreamService } from '../../../src/wire/peer-stream.ts'

export interface FakeAcceptor {
  address: string
  streams: StreamCall[]
}

/** `takesSecrets` false: an acceptor that only has streams, so that the secret goes to the next address. */
export async function fakeAcceptor(t: Test, serve: (call: StreamCall) => void, { takesSecrets = true } = {}): Promise<FakeAcceptor> {
  const server = new Server({ 'grpc.max_send_message_length': -1 })
  const streams: StreamCall[] = []
  server.addService(peerStreamService, {
    exchangeSecret: (
      _call: ServerUnaryCall<ExchangeSecretRequest, ExchangeSecretResponse>,
      answer: sendUnaryData<ExchangeSecretResponse>,
    ) => (takesSecrets ? answer(null, { StreamSecret: 'a-secret' }) : answer({ code: status.UNAVAILABLE, details: 'not now' })),
    streamResources: (call: StreamCall) => {
      streams.push(call)
      call.on('error', () => undefined)
      call.on('data', () => undefined)
      serve(call)
    },
  })
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound))),
  )
  t.teardown(() => server.forceShutdown())
  return { address: `127.0.0.1:${port}`, streams }
}

/** A token that leads to such acceptors. */
export function fakeToken(...serverAddresses: string[]): string {
  return encodeToken({
    ca: [],
    manualServerAddresses: [],
    serverAddresses,
    serverName: '',
    peerId: '00000000-0000-0000-0000-00000000000a',
    establishmentSecret: 'once',
    remote: { partition: '', datacenter: 'fake' },
  })
}

export function endCall(call: StreamCall, code: status, details: string, metadata: Metadata): void {
  call.emit('error', { code, details, metadata })
}
