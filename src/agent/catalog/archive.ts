/**
 * The archive that a snapshot is: a gzip'd tar of meta.json, state.bin and SHA256SUMS, which Consul's CLI checks after it has saved one
 * (spec/http-api.md 14). What is read from one is bounded, and nothing of it is believed before its sums hold.
 */
import { createHash } from 'node:crypto'
import { promisify } from 'node:util'
import { gunzip, gzip } from 'node:zlib'
import { MeshError } from '../../lib/errors.ts'

export const archiveLimits = { packedBytes: 64 * 1024 * 1024, unpackedBytes: 512 * 1024 * 1024, sumsBytes: 64 * 1024 } as const

export interface Archive {
  meta: Buffer
  state: Buffer
}

const block = 512
const sums = 'SHA256SUMS'

export async function pack({ meta, state }: Archive, atMs: number): Promise<Buffer> {
  const lines = `${sha256(meta)}  meta.json\n${sha256(state)}  state.bin\n`
  const files: [string, Buffer][] = [
    ['meta.json', meta],
    ['state.bin', state],
    [sums, Buffer.from(lines)],
  ]
  const tar = [...files.flatMap(([name, body]) => [header(name, body.length, atMs), body, padding(body.length)]), Buffer.alloc(2 * block)]
  return promisify(gzip)(Buffer.concat(tar))
}

export async function unpack(packed: Buffer): Promise<Archive> {
  const files = readTar(await unzipped(packed))
  const meta = files.get('meta.json')
  const state = files.get('state.bin')
  const sumsFile = files.get(sums)
  if (!meta || !state || !sumsFile) throw refuse('the archive must hold meta.json, state.bin and SHA256SUMS')
  if (sumsFile.length > archiveLimits.sumsBytes) throw refuse(`SHA256SUMS is longer than ${archiveLimits.sumsBytes} bytes`)
  const lines = sumsFile.toString('latin1').split('\n')
  for (const [name, body] of [
    ['meta.json', meta],
    ['state.bin', state],
  ] as const) {
    if (!lines.includes(`${sha256(body)}  ${name}`)) {
      throw refuse(`failed checking integrity of snapshot: hash check failed for "${name}"`)
    }
  }
  return { meta, state }
}

function refuse(why: string): MeshError {
  return new MeshError('invalid', `failed to read snapshot file: ${why}`)
}

async function unzipped(packed: Buffer): Promise<Buffer> {
  const failed = (why: string) => new MeshError('invalid', `failed to decompress snapshot: ${why}`)
  // Go reads ten bytes of header before it judges them.
  if (packed.length < 10) throw failed('unexpected EOF')
  if (packed[0] !== 0x1f || packed[1] !== 0x8b) throw failed('gzip: invalid header')
  try {
    return await promisify(gunzip)(packed, { maxOutputLength: archiveLimits.unpackedBytes })
  } catch (error) {
    throw failed((error as NodeJS.ErrnoException).code === 'Z_BUF_ERROR' ? 'unexpected EOF' : 'gzip: invalid data')
  }
}

function sha256(body: Buffer): string {
  return createHash('sha256').update(body).digest('hex')
}

function padding(length: number): Buffer {
  return Buffer.alloc((block - (length % block)) % block)
}

/** A ustar header of a plain file. */
function header(name: string, size: number, atMs: number): Buffer {
  const out = Buffer.alloc(block)
  const octal = (value: number, at: number, width: number) => out.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at, 'latin1')
  out.write(name, 0, 'latin1')
  octal(0o600, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(size, 124, 12)
  octal(Math.floor(atMs / 1000), 136, 12)
  out.write('        0', 148, 'latin1')
  out.write('ustar\x0000', 257, 'latin1')
  let checksum = 0
  for (const byte of out) checksum += byte
  out.write(`${checksum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return out
}

function readTar(tar: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>()
  for (let at = 0; at + block <= tar.length && tar[at] !== 0;) {
    const name = tar.toString('latin1', at, at + 100).replace(/\0.*$/s, '')
    const digits = tar.toString('latin1', at + 124, at + 136).replace(/[\0 ]+$/, '')
    if (!/^[0-7]{1,11}$/.test(digits)) throw refuse(`bad size of ${JSON.stringify(name)}`)
    const size = parseInt(digits, 8)
    const body = tar.subarray(at + block, at + block + size)
    if (body.length < size || files.has(name)) throw refuse(`${JSON.stringify(name)} is cut off or twice there`)
    files.set(name, body)
    at += block + size + padding(size).length
  }
  return files
}
