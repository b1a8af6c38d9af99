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
  // One place for each rcode, one for the others, one for what got no reply: plain numbers, read when they are scraped.
  const labels = [...rcodeNames, 'other', 'ignored']
  const counts: Record<Transport, number[]> = { udp: labels.map(() => 0), tcp: labels.map(() => 0) }
  const counter: Counter<'transport' | 'rcode'> = new Counter({
    name: 'isthmus_dns_messages_total',
    help: 'DNS messages received, by the rcode of the reply ("ignored" when none was sent).',
    labelNames: ['transport', 'rcode'] as const,
    registers: [registry],
    collect() {
      counter.reset()
      for (const transport of ['udp', 'tcp'] as const) {
        labels.forEach((rcode, i) => counter.inc({ transport, rcode }, counts[transport][i]))
      }
    },
  })
  const connections = new Gauge({ name: 'isthmus_dns_tcp_connections', help: 'Open DNS connections over TCP.', registers: [registry] })
  return {
    connections,
    count(transport, reply) {
      const at = reply ? Math.min(reply[3]! & 0x0f, rcodeNames.length) : rcodeNames.length + 1
      counts[transport][at]! += 1
    },
  }
}
