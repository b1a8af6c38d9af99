/**
 * Reads protobuf from a stranger. Two bytes on the wire can become an object of hundreds in memory, so that a message within the
 * size limit could still take gigabytes and half a minute; how many fields are read is therefore bounded, whatever they are.
 */
import { BinaryReader } from '@bufbuild/protobuf/wire'

export class TooManyFields extends Error {}

/** Every field and every length is read through `uint32`, nested and unknown ones included. */
class BoundedReader extends BinaryReader {
  constructor(bytes: Uint8Array, maxReads: number, fields: { read: number }) {
    super(bytes)
    const read = this.uint32
    this.uint32 = () => {
      fields.read += 1
      if (fields.read > maxReads) throw new TooManyFields('the message has too many fields')
      return read.call(this)
    }
  }
}

/** `maxReads` counts tags and lengths: a text field takes two. `fields` is told how many there were. */
export function decodeBounded<T>(
  codec: { decode(input: BinaryReader): T },
  bytes: Uint8Array,
  maxReads: number,
  fields: { read: number } = { read: 0 },
): T {
  return codec.decode(new BoundedReader(bytes, maxReads, fields))
}
