/** What the DNS door counts. Labels are closed sets: no name that a client asks for ever becomes one. */
import { Counter, Gauge, type Registry } from '../../lib/metrics.ts'
import type { Transport } from './trim.ts'

const rcodeNames = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED'] as const

export interface DnsMetrics {
  connections: Gauge
  /** One message and what became of it; no reply is counted as `ignored`. */
  count(transport: Transport, reply: Buffer | undefined): void
}

export function dnsMetrics(registry: Registry): DnsMetrics {
  const messages = new Counter({
    name: 'isthmus_dns_messages_total',
    help: 'DNS messages received, by the rcode of the reply ("ignored" when none was sent).',
    labelNames: ['transport', 'rcode'] as const,
    registers: [registry],
  })
  const connections = new Gauge({ name: 'isthmus_dns_tcp_connections', help: 'Open DNS connections over TCP.', registers: [registry] })
  const child = (transport: Transport) => ({
    byRcode: rcodeNames.map(rcode => messages.labels({ transport, rcode })),
    other: messages.labels({ transport, rcode: 'other' }),
    ignored: messages.labels({ transport, rcode: 'ignored' }),
  })
  const children = { udp: child('udp'), tcp: child('tcp') }
  return {
    connections,
    count(transport, reply) {
      const { byRcode, other, ignored } = children[transport]
      if (reply) (byRcode[reply[3]! & 0x0f] ?? other).inc()
      else ignored.inc()
    },
  }
}
