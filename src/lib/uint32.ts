/** Unsigned numbers of 32 bits, big endian, as frames have them: without the checks of Node's own, which cost more than the number. */

export function readUint32(from: Buffer, at: number): number {
  return from[at]! * 0x1000000 + ((from[at + 1]! << 16) | (from[at + 2]! << 8) | from[at + 3]!)
}

export function writeUint32(into: Buffer, at: number, value: number): void {
  into[at] = value >>> 24
  into[at + 1] = value >>> 16
  into[at + 2] = value >>> 8
  into[at + 3] = value
}
