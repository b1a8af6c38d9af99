/** Header blocks written by hand, every representation of RFC 7541 at will; an independent writer, so that the reader is not its own judge. */
import { huffmanCodes } from '../../../../src/proxy/http2/wire/huffman.ts'

const codes = huffmanCodes()

export function integer(flag: number, prefix: number, value: number): Buffer {
  const most = 2 ** prefix - 1
  if (value < most) return Buffer.from([flag | value])
  const octets = [flag | most]
  let rest = value - most
  for (; rest >= 128; rest = Math.floor(rest / 128)) octets.push((rest % 128) + 128)
  return Buffer.from([...octets, rest])
}

export const index = (at: number) => integer(0x80, 7, at)
export const sizeUpdate = (bytes: number) => integer(0x20, 5, bytes)

export function text(value: string): Buffer {
  return Buffer.concat([integer(0, 7, value.length), Buffer.from(value, 'latin1')])
}

/** With other padding, or more of it, this is a fault. */
export function huffman(value: string, padding = '1111111'): Buffer {
  const bits = [...Buffer.from(value, 'latin1')].map(octet => codes[octet]!).join('')
  return ofBits(bits + padding.slice(0, padding.length > 7 ? undefined : (8 - (bits.length % 8)) % 8))
}

/** A Huffman string of these bits. */
export function ofBits(bits: string): Buffer {
  const octets = Buffer.from((bits.match(/.{8}/g) ?? []).map(each => Number.parseInt(each, 2)))
  return Buffer.concat([integer(0x80, 7, octets.length), octets])
}

const literals = { inserting: [0x40, 6], plain: [0, 4], never: [0x10, 4] } as const
export type Literal = keyof typeof literals

/** `name` is an index or a string that is ready. */
export function literal(kind: Literal, name: number | Buffer, value: Buffer): Buffer {
  const [flag, prefix] = literals[kind]
  return Buffer.concat([
    integer(flag, prefix, typeof name === 'number' ? name : 0),
    typeof name === 'number' ? Buffer.alloc(0) : name,
    value,
  ])
}

export const hex = (digits: string) => Buffer.from(digits.replaceAll(/\s/g, ''), 'hex')
