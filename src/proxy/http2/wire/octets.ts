/** Which octets RFC 9113 8.2.1 forbids in a field: one table, in which a bit says where. Values are judged as nghttp2 does. */

export const badName = 1
export const badValue = 2

/** By octet: badName, badValue, both or neither. A colon is bad here; whoever reads a name allows the first one of a pseudo-header field. */
export const forbidden = new Uint8Array(256)

const tokens = new Set(Buffer.from("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"))
const tab = 0x09
for (let octet = 0; octet < 256; octet++) {
  const control = (octet < 0x20 && octet !== tab) || octet === 0x7f
  forbidden[octet] = (tokens.has(octet) ? 0 : badName) | (control ? badValue : 0)
}
