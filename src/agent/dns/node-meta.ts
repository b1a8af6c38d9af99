/** A node's metadata as texts (RFC 1464). Every key and value comes out as it went in, whatever characters it has. */
import type { Node } from '../../mesh/node.ts'
import type { DnsRecord } from '../../wire/dns/records.ts'

/** Node metadata as RFC 1464 texts; a key that begins with `rfc1035-` gives its bare value. */
export function metaRecords(name: string, node: Node, ttl: number): DnsRecord[] {
  return Object.entries(node.meta ?? {}).map(([key, value]) => ({
    type: 'TXT',
    name,
    ttl,
    text: key.toLowerCase().startsWith('rfc1035-') ? value : `${attributeName(key)}=${value.replaceAll('`', '``')}`,
  }))
}

/** RFC 1464 2: a backquote marks what would otherwise end or trim the attribute's name. */
function attributeName(key: string): string {
  return key
    .replaceAll('`', '``')
    .replaceAll('=', '`=')
    .replace(/^ +/, spaces => '` '.repeat(spaces.length))
    .replace(/ +$/, spaces => '` '.repeat(spaces.length))
}
