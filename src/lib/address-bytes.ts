/** IP addresses between their text and their bytes in network order. The text that comes out is the one canonical form (RFC 5952). */

/** An IPv4 or IPv6 text in network order. The caller has made sure that it is one (`net.isIP`). */
export function addressBytes(address: string): Buffer {
  if (!address.includes(':')) return quad(address)
  const bare = address.split('%', 1)[0]!
  const [head, tail] = bare.split('::') as [string, string | undefined]
  const before = groups(head)
  const after = tail === undefined ? [] : groups(tail)
  const middle = Array.from({ length: 16 - before.length - after.length }, () => 0)
  return Buffer.from([...before, ...middle, ...after])
}

/** Digit by digit: this is done for every address of every answer that is made. */
function quad(address: string): Buffer {
  const bytes = Buffer.allocUnsafe(4)
  let at = 0
  let value = 0
  for (let i = 0; i < address.length; i++) {
    const code = address.charCodeAt(i)
    if (code === 0x2e) {
      bytes[at++] = value
      value = 0
    } else value = value * 10 + code - 0x30
  }
  bytes[at] = value
  return bytes
}

function groups(text: string): number[] {
  if (text === '') return []
  return text.split(':').flatMap(group => {
    if (group.includes('.')) return group.split('.').map(Number)
    const value = Number.parseInt(group, 16)
    return [value >> 8, value & 0xff]
  })
}

/** Sixteen bytes as RFC 5952 writes them; four as dotted quad. */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.')
  const words = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i]! << 8) | bytes[2 * i + 1]!).toString(16))
  const zeros = [...words.join(':').matchAll(/(?:^|:)0(?::0)+(?=:|$)/g)].sort((a, b) => b[0].length - a[0].length)[0]
  if (!zeros) return words.join(':')
  const text = words.join(':')
  return `${text.slice(0, zeros.index)}::${text.slice(zeros.index + zeros[0].length + 1)}`
}
