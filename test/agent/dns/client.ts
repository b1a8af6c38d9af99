// A DNS client for tests: whole messages over real UDP and TCP sockets, and answers in the form of the golden files.
import { decode, encode, type Answer, type DecodedPacket, type OptAnswer, type Packet } from 'dns-packet'
import { createSocket } from 'node:dgram'
import { connect } from 'node:net'

/** The reply to one datagram, or undefined when none comes in time. */
export function askUdp(port: number, message: Buffer, timeoutMs = 2000): Promise<Buffer | undefined> {
  const socket = createSocket('udp4')
  return new Promise((resolve, reject) => {
    const finish = (reply?: Buffer) => {
      clearTimeout(timer)
      socket.close()
      resolve(reply)
    }
    const timer = setTimeout(finish, timeoutMs)
    socket.once('message', finish)
    socket.once('error', reject)
    socket.send(message, port, '127.0.0.1')
  })
}

export function framed(message: Buffer): Buffer {
  return Buffer.concat([Buffer.from([message.length >> 8, message.length & 0xff]), message])
}

/** Sends bytes over one connection and gives back the messages that come until `count` have, or the connection ends. */
export function askTcp(port: number, bytes: Buffer, count = 1): Promise<Buffer[]> {
  const socket = connect(port, '127.0.0.1')
  const messages: Buffer[] = []
  let received = Buffer.alloc(0)
  return new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('close', () => resolve(messages))
    socket.on('data', chunk => {
      received = Buffer.concat([received, chunk])
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const end = 2 + received.readUInt16BE(0)
        messages.push(received.subarray(2, end))
        received = received.subarray(end)
      }
      if (messages.length >= count) socket.destroy()
    })
    socket.write(bytes)
  })
}

let nextId = 1

/** A query as `dig` makes it from golden options (`+edns +bufsize=4096` ...). */
export function digQuery(name: string, type: string, options: readonly string[] = []): Buffer {
  const value = (option: string) => options.find(each => each.startsWith(`${option}=`))?.slice(option.length + 1)
  const subnet = value('+subnet')?.split('/')
  const edns = options.some(each => each === '+edns' || each === '+dnssec' || each.startsWith('+bufsize') || each.startsWith('+subnet'))
  nextId = (nextId % 65_535) + 1
  const packet: Packet = {
    type: 'query',
    id: nextId,
    flags: options.includes('+rec') ? 0x0100 : 0,
    questions: [{ name, type: type.replace(/=.*/, '') as 'A', class: options.includes('CH') ? 'CH' : 'IN' }],
    additionals: edns ? [opt(Number(value('+bufsize') ?? 1232), options.includes('+dnssec'), subnet)] : [],
  }
  return encode(packet)
}

function opt(udpPayloadSize: number, dnssecOk: boolean, subnet: string[] | undefined): OptAnswer {
  const options = subnet ? [{ code: 8, ip: subnet[0]!, sourcePrefixLength: Number(subnet[1]) }] : []
  const flags = dnssecOk ? 0x8000 : 0
  return { type: 'OPT', name: '.', udpPayloadSize, extendedRcode: 0, ednsVersion: 0, flags, flag_do: dnssecOk, options } as OptAnswer
}

export async function dig(port: number, name: string, type: string, options: readonly string[] = []): Promise<Dug> {
  const query = digQuery(name, type, options)
  // As dig does, ANY goes over TCP.
  const reply = options.includes('+tcp') || type === 'ANY' ? (await askTcp(port, framed(query)))[0] : await askUdp(port, query)
  if (!reply) throw new Error(`no reply for ${name} ${type}`)
  if (reply.readUInt16BE(0) !== query.readUInt16BE(0)) throw new Error('the reply has another id')
  return dug(reply)
}

export interface Dug {
  rcode: string
  flags: string[]
  /** The OPT record as dig prints it; null without one. */
  edns: string | null
  size: number
  answer: string[]
  authority: string[]
  additional: string[]
}

const flagBits = [
  ['qr', 0x8000],
  ['aa', 0x0400],
  ['tc', 0x0200],
  ['rd', 0x0100],
  ['ra', 0x0080],
] as const

export function dug(reply: Buffer): Dug {
  const packet = decode(reply) as DecodedPacket & { rcode: string }
  const bits = reply.readUInt16BE(2)
  const opt = packet.additionals?.find(each => each.type === 'OPT')
  const subnet = opt?.options?.find(each => each.code === 8) as
    | { ip?: string; sourcePrefixLength?: number; scopePrefixLength?: number }
    | undefined
  return {
    rcode: packet.rcode,
    flags: flagBits.filter(([, bit]) => (bits & bit) !== 0).map(([name]) => name),
    edns: opt
      ? `EDNS: version: 0, flags:; udp: ${opt.udpPayloadSize}${subnet ? ` CLIENT-SUBNET: ${subnet.ip}/${subnet.sourcePrefixLength}/${subnet.scopePrefixLength}` : ''}`
      : null,
    size: reply.length,
    answer: lines(packet.answers),
    authority: lines(packet.authorities),
    additional: lines(packet.additionals),
  }
}

/** Sorted, because the order within a section is random. */
function lines(records: Answer[] | undefined): string[] {
  return (records ?? [])
    .filter(record => record.type !== 'OPT')
    .map(record => `${record.name}. ${record.ttl} ${record.type} ${data(record)}`)
    .sort()
}

function data(record: Answer): string {
  switch (record.type) {
    case 'SRV':
      return `${record.data.priority} ${record.data.weight} ${record.data.port} ${record.data.target}.`
    case 'SOA':
      return `${record.data.mname}. ${record.data.rname}. SERIAL ${record.data.refresh} ${record.data.retry} ${record.data.expire} ${record.data.minimum}`
    case 'CNAME':
    case 'NS':
    case 'PTR':
      return `${record.data}.`
    case 'TXT':
      return [record.data]
        .flat()
        .map(part => `"${String(part)}"`)
        .join(' ')
    default:
      return String((record as { data: unknown }).data)
  }
}
