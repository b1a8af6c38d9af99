/** Text of one character a byte, without the way there of `toString('latin1')` and `write(…, 'latin1')`: these are called for every head. */

interface Latin1 {
  latin1Slice(from: number, to: number): string
  latin1Write(text: string, at: number, length: number): number
}

export function readLatin1(bytes: Buffer, from: number, to: number): string {
  return (bytes as Buffer & Latin1).latin1Slice(from, to)
}

/** There must be room for it. */
export function writeLatin1(into: Buffer, text: string, at: number): void {
  ;(into as Buffer & Latin1).latin1Write(text, at, text.length)
}
