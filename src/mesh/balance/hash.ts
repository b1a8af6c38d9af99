/** A fast hash of text into 32 bits, evenly spread. Not for secrets: who knows it can choose text that hashes as he likes. */

/** The place of a text on the circle; another `seed` gives another circle. */
export function hashText(text: string, seed = 0): number {
  let hash = 0x811c9dc5 ^ seed
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return mix(hash ^ text.length)
}

/** Spreads every bit over all of them (the last step of murmur3). */
export function mix(value: number): number {
  let hash = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

/** Two hashes as one, in which their order counts. */
export function combine(first: number, second: number): number {
  return (((first << 1) | (first >>> 31)) ^ second) >>> 0
}
