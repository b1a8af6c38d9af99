/**
 * Asks other resolvers for names that are not ours. One fresh socket and one random id a question, and only a reply from the
 * address that was asked, with that id and that question, counts (RFC 5452). Bounded: by time, and by how many are under way.
 */
import { decode } from 'dns-packet'
import { randomInt } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { connect, isIP } from 'node:net'
import type { Clock } from '../../lib/clock.ts'
import { MeshError } from '../../lib/errors.ts'
import type { Query } from '../../wire/dns/query.ts'
import { rcodes, rrTypes, type DnsRecord } from '../../wire/dns/records.ts'
import { questionBytes, writeQuery } from '../../wire/dns/writer.ts'
import type { Transport } from './trim.ts'

export interface RecursorOptions {
  /** `ip`, `ip:port` or `[ip]:port`. */
  addresses: string[]
  strategy: 'sequential' | 'random'
  timeoutMs: number
  clock: Clock
  random?: () => number
}

type Asked = Pick<Query, 'flags' | 'question' | 'edns'>

interface Address {
  host: string
  port: number
}

/** Each takes a file descriptor, which the other doors need, too. */
const maxInFlight = 256
const recursionDesired = 0x0100

export class Recursors {
  readonly #options: RecursorOptions
  readonly #addresses: Address[]
  /** What ends each question that is under way. */
  readonly #underWay = new Set<() => void>()
  #closed = false

  constructor(options: RecursorOptions) {
    this.#options = options
    this.#addresses = options.addresses.map(parseRecursor)
  }

  get configured(): boolean {
    return this.#addresses.length > 0
  }

  /** The first reply that settles the matter, under an id of its own; undefined when no recursor gave one. */
  async ask(query: Asked, transport: Transport): Promise<Buffer | undefined> {
    for (const address of this.#ordered()) {
      if (this.#closed || this.#underWay.size >= maxInFlight) return undefined
      const reply = await this.#exchange(address, query, transport)
      const rcode = reply ? reply[3]! & 0x0f : undefined
      if (rcode === rcodes.noError || rcode === rcodes.nameError) return reply
    }
    return undefined
  }

  /** Addresses and aliases of a name; none when nobody knows. */
  async resolve(name: string, type: number): Promise<DnsRecord[]> {
    const question = questionBytes(name, type === rrTypes.aaaa ? rrTypes.aaaa : rrTypes.a)
    if (!question) return []
    const reply = await this.ask({ flags: recursionDesired, question, edns: undefined }, 'udp')
    return reply ? recordsOf(reply) : []
  }

  close(): void {
    this.#closed = true
    for (const end of this.#underWay) end()
  }

  #ordered(): Address[] {
    if (this.#options.strategy === 'sequential') return this.#addresses
    const random = this.#options.random ?? Math.random
    return this.#addresses
      .map(address => ({ address, at: random() }))
      .sort((a, b) => a.at - b.at)
      .map(({ address }) => address)
  }

  #exchange(address: Address, query: Asked, transport: Transport): Promise<Buffer | undefined> {
    const message = writeQuery(randomInt(65_536), query)
    return new Promise(resolve => {
      let stop = () => {}
      const finish = (reply?: Buffer) => {
        this.#underWay.delete(finish)
        timer.cancel()
        stop()
        resolve(reply)
      }
      const timer = this.#options.clock.after(this.#options.timeoutMs, finish)
      const offer = (reply: Buffer) => {
        if (answers(reply, message, query.question)) finish(reply)
      }
      this.#underWay.add(finish)
      stop = transport === 'udp' ? askUdp(address, message, offer, finish) : askTcp(address, message, offer, finish)
    })
  }
}

/** Sends over a connected socket, so that the kernel drops what others send; gives back what closes it. */
function askUdp({ host, port }: Address, message: Buffer, offer: (reply: Buffer) => void, fail: () => void): () => void {
  const socket = createSocket(isIP(host) === 6 ? 'udp6' : 'udp4')
  let open = true
  socket.on('error', () => fail())
  socket.on('message', offer)
  socket.connect(port, host, () => {
    if (open) socket.send(message, error => (error ? fail() : undefined))
  })
  return () => {
    if (!open) return
    open = false
    socket.close()
  }
}

function askTcp({ host, port }: Address, message: Buffer, offer: (reply: Buffer) => void, fail: () => void): () => void {
  const socket = connect({ host, port })
  let received = Buffer.alloc(0)
  socket.on('error', () => fail())
  socket.on('close', () => fail())
  socket.on('connect', () => socket.write(Buffer.concat([Buffer.from([message.length >> 8, message.length & 0xff]), message])))
  socket.on('data', chunk => {
    received = Buffer.concat([received, chunk])
    if (received.length < 2) return
    const end = 2 + received.readUInt16BE(0)
    if (received.length < end) return
    offer(received.subarray(2, end))
    fail()
  })
  return () => socket.destroy()
}

/** Same id, a response, and the very question that was asked, case included (RFC 5452 9.1). */
function answers(reply: Buffer, asked: Buffer, question: Buffer): boolean {
  if (reply.length < 12 + question.length) return false
  return (
    reply.readUInt16BE(0) === asked.readUInt16BE(0) &&
    (reply[2]! & 0xf8) === 0x80 &&
    reply.readUInt16BE(4) === 1 &&
    reply.subarray(12, 12 + question.length).equals(question)
  )
}

function recordsOf(reply: Buffer): DnsRecord[] {
  try {
    return (decode(reply).answers ?? []).flatMap((each): DnsRecord[] => {
      if (each.type === 'A' || each.type === 'AAAA') {
        return [{ type: each.type, name: `${each.name}.`, ttl: each.ttl ?? 0, address: each.data }]
      }
      return each.type === 'CNAME' ? [{ type: 'CNAME', name: `${each.name}.`, ttl: each.ttl ?? 0, target: `${each.data}.` }] : []
    })
  } catch {
    return [] // not a DNS message after all: as good as no answer
  }
}

export function parseRecursor(text: string): Address {
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text)
  const host = match ? (match[1] ?? match[2]!) : text.replace(/^\[(.+)\]$/, '$1')
  const port = match ? Number(match[3]) : 53
  if (isIP(host) === 0 || port < 1 || port > 65_535) {
    throw new MeshError(
      'invalid',
      `recursor ${JSON.stringify(text)} is not an IP address; write recursors as "10.0.0.2", "10.0.0.2:53" or "[fd00::2]:53"`,
    )
  }
  return { host, port }
}
