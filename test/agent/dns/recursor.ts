// The fake resolver of golden/dns: *.example.com is 192.0.2.53, servfail.* fails, nothing else exists. UDP and TCP on one port.
import { decode, encode } from 'dns-packet'
import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import { framed } from './client.ts'

export interface FakeRecursor {
  port: number
  /** Names that were asked for. */
  asked: string[]
  close(): Promise<void>
}

export type Answering = (query: Buffer) => Buffer | undefined

export async function startRecursor(answering: Answering = exampleCom): Promise<FakeRecursor> {
  const asked: string[] = []
  const answer = (query: Buffer) => {
    asked.push(decode(query).questions![0]!.name)
    return answering(query)
  }
  const tcp = createServer(socket => {
    socket.on('error', () => socket.destroy())
    socket.on('data', chunk => {
      const reply = answer(chunk.subarray(2))
      if (reply) socket.write(framed(reply))
    })
  })
  await new Promise<void>(resolve => tcp.listen(0, '127.0.0.1', resolve))
  const { port } = tcp.address() as { port: number }
  const udp = createSocket('udp4')
  udp.on('message', (query, from) => {
    const reply = answer(query)
    if (reply) udp.send(reply, from.port, from.address)
  })
  await new Promise<void>(resolve => udp.bind(port, '127.0.0.1', resolve))
  return {
    port,
    asked,
    async close() {
      await Promise.all([
        new Promise<void>(resolve => udp.close(() => resolve())),
        new Promise<void>(resolve => tcp.close(() => resolve())),
      ])
    },
  }
}

export function exampleCom(query: Buffer): Buffer {
  const { id, questions } = decode(query)
  const question = questions![0]!
  const found = question.name.endsWith('.example.com')
  const rcode = question.name.startsWith('servfail') ? 2 : found ? 0 : 3
  return encode({
    type: 'response',
    id,
    flags: 0x0180 | rcode,
    questions: [question],
    answers: found ? [{ type: 'A', name: question.name, ttl: 300, data: '192.0.2.53' }] : [],
  })
}
