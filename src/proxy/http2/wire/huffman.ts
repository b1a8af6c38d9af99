/**
 * Reading the Huffman code of RFC 7541 appendix B, an octet at a time, by a machine whose states are the inner nodes of the code's tree.
 * Invariant: a step costs the same whatever comes, and is looked at for faults once, at the end.
 */
import { badValue, forbidden } from './octets.ts'

/** How many bits each symbol has, in base 36; the last one is EOS. The code is canonical, so this is all of it. */
const lengths = [
  'dnsssssssoussussssssssusssssssss6aacd68baa8b8666555666666678f6ca',
  'd67777777777777777777777878djde6f56565666577666567655677777fbeds',
  'kmkkmmmnmnnnnnonoomnonnnnlmnmnnomlkmmnnlnmmolmnnllmlnmnnkmmmnmmn',
  'qqkjmnmpqqqrrqopjlqrrqrollqqsrrrkoklmllnmmppooqnqrqqrrrrrsrrrrrq',
  'u',
].join('')
const eos = 256

/** A step: bits 0-7 and 16-23 are the symbols that it yields, 24-25 their number, 8-15 the next state. Then the two flags. */
const forbiddenFlag = 1 << 26
const faultFlag = 1 << 27

/** By state and octet. */
const steps = new Int32Array(256 * 256)
/** By state: whether a string may end there, which is after up to seven bits of padding, all ones. */
const mayEnd = new Uint8Array(256)
/** The machine is built for the first string that needs it: a proxy that speaks no HTTP/2 has none. */
let isBuilt = false

/** Room that `decodeHuffman` needs for so many bytes: no code is shorter than five bits, and a step writes twice. */
export function huffmanRoom(bytes: number): number {
  return Math.ceil((bytes * 8) / 5) + 2
}

/** Decodes bytes[start, end). Answers -1 at a fault, else twice the length, plus 1 if the string has an octet that no value may have. */
export function decodeHuffman(bytes: Buffer, start: number, end: number, into: Buffer): number {
  if (!isBuilt) buildMachine()
  let step = 0
  let flags = 0
  let at = 0
  for (let i = start; i < end; i++) {
    step = steps[(step & 0xff00) | bytes[i]!]!
    flags |= step
    into[at] = step
    into[at + 1] = step >>> 16
    at += (step >>> 24) & 3
  }
  if ((flags & faultFlag) !== 0 || mayEnd[(step >>> 8) & 0xff] === 0) return -1
  return at * 2 + ((flags & forbiddenFlag) === 0 ? 0 : 1)
}

/** The code of each symbol, as ones and zeros. */
export function huffmanCodes(): string[] {
  const codes: string[] = []
  let code = 0
  for (let length = 1; length <= 30; length++) {
    for (let symbol = 0; symbol <= eos; symbol++)
      if (Number.parseInt(lengths[symbol]!, 36) === length) codes[symbol] = (code++).toString(2).padStart(length, '0')
    code *= 2
  }
  return codes
}

/** Where a bit leads, by node * 2 + bit: to an inner node, or to a symbol, which is written as ~symbol. */
function tree(): Int32Array {
  const next = new Int32Array(512)
  let nodes = 1
  for (const [symbol, code] of huffmanCodes().entries()) {
    let node = 0
    for (const bit of code.slice(0, -1)) {
      const branch = node * 2 + Number(bit)
      if (next[branch] === 0) next[branch] = nodes++
      node = next[branch]!
    }
    next[node * 2 + Number(code.at(-1))] = ~symbol
  }
  return next
}

function buildMachine(): void {
  isBuilt = true
  const next = tree()
  for (let state = 0; state < 256; state++) fill(next, state, state, 0, 0, 0)
  for (let state = 0, bits = 0; bits < 8; bits++, state = next[state * 2 + 1]!) mayEnd[state] = 1
}

/** All steps from `state` whose octet begins with these bits, which led to `node` and yielded what `step` says. */
function fill(next: Int32Array, state: number, node: number, octet: number, bits: number, step: number): void {
  if (bits === 8) {
    steps[(state << 8) | octet] = step | (node << 8)
    return
  }
  for (let bit = 0; bit < 2; bit++) {
    const to = next[node * 2 + bit]!
    const symbol = ~to
    if (to >= 0) fill(next, state, to, (octet << 1) | bit, bits + 1, step)
    else if (symbol === eos) fill(next, state, 0, (octet << 1) | bit, bits + 1, step | faultFlag)
    else fill(next, state, 0, (octet << 1) | bit, bits + 1, withSymbol(step, symbol))
  }
}

function withSymbol(step: number, symbol: number): number {
  const flag = (forbidden[symbol]! & badValue) === 0 ? 0 : forbiddenFlag
  const second = ((step >>> 24) & 3) === 1
  return (step | flag | (second ? symbol << 16 : symbol)) + (1 << 24)
}
