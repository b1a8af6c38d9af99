/**
 * The instances of one service as its message carries them, one behind the other, and where each ends: where few have changed, what
 * stands before and behind them is taken over in one piece, however many they are.
 */
import type { CheckServiceNode } from '../../mesh/service.ts'

export interface EncodedSet {
  instances: readonly CheckServiceNode[]
  /** The end of each in `value`. */
  ends: Uint32Array
  value: Buffer
}

/** An instance that is the same object as before is encoded as it was. */
export function encodeSet(
  before: EncodedSet | undefined,
  instances: readonly CheckServiceNode[],
  encode: (instance: CheckServiceNode) => Uint8Array,
): EncodedSet {
  const old = before ?? { instances: [], ends: new Uint32Array(0), value: Buffer.alloc(0) }
  const most = Math.min(old.instances.length, instances.length)
  let head = 0
  while (head < most && old.instances[head] === instances[head]) head += 1
  let tail = 0
  while (tail < most - head && old.instances.at(-1 - tail) === instances.at(-1 - tail)) tail += 1
  const oldTail = old.instances.length - tail
  const ends = new Uint32Array(instances.length)
  ends.set(old.ends.subarray(0, head))
  const pieces: Uint8Array[] = [old.value.subarray(0, endOf(old, head))]
  let at = endOf(old, head)
  for (let i = head; i < instances.length - tail; i += 1) {
    const piece = encode(instances[i]!)
    pieces.push(piece)
    at += piece.length
    ends[i] = at
  }
  const shift = at - endOf(old, oldTail)
  for (let i = 0; i < tail; i += 1) ends[instances.length - tail + i] = old.ends[oldTail + i]! + shift
  pieces.push(old.value.subarray(endOf(old, oldTail)))
  return { instances, ends, value: Buffer.concat(pieces) }
}

/** Where the first `count` end. */
function endOf({ ends }: EncodedSet, count: number): number {
  return count === 0 ? 0 : ends[count - 1]!
}
