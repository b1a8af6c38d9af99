/**
 * The DNS door: UDP and TCP on one port. Datagrams are answered in the turn in which they come, unless a recursor must be asked;
 * a reply that the kernel cannot take is dropped, as the network might have done, so that nothing piles up here.
 */
import { createSocket, type Socket } from 'node:dgram'
import { isIP } from 'node:net'
import { systemClock, type Clock } from '../../lib/clock.ts'
import { MeshError, messageOf } from '../../lib/errors.ts'
import type { Freshness } from '../../mesh/freshness.ts'
import type { Logger } from '../../lib/log.ts'
import type { Registry } from '../../lib/metrics.ts'
import type { Tables } from '../catalog/tables.ts'
import type { AgentConfig } from '../config.ts'
import { KeptAnswers } from './kept-answers.ts'
import { dnsMetrics } from './metrics.ts'
import { Lookup, type LookupOptions } from './lookup.ts'
import { zonesOf } from './question.ts'
import { Recursors } from './recursors.ts'
import { Responder } from './responder.ts'
import { createTcpDoor } from './tcp.ts'
import { Zone } from './zone.ts'

export interface DnsDoorOptions {
  address: string
  /** 0 takes any port that is free for both. */
  port: number
  tables: Tables
  /** Executes a prepared query by name or id. */
  query: LookupOptions['query']
  config: Pick<AgentConfig, 'domain' | 'altDomain' | 'recursors' | 'dnsConfig'>
  datacenter: string
  /** How old what we hold of a peer's service may be. */
  freshness: (peer: string, service: string) => Freshness
  logger: Logger
  metrics: Registry
  clock?: Clock
  random?: () => number
}

export interface DnsDoor {
  port: number
  close(): Promise<void>
}

const maxQueuedBytes = 4 * 1024 * 1024
/** How often another free port is tried when the one that TCP got is taken for UDP. */
const maxPortAttempts = 10

export async function startDnsDoor(options: DnsDoorOptions): Promise<DnsDoor> {
  const { logger } = options
  const { domain, altDomain, recursors: addresses, dnsConfig: config } = options.config
  const clock = options.clock ?? systemClock
  const random = options.random ?? Math.random
  const metrics = dnsMetrics(options.metrics)
  const recursors = new Recursors({
    addresses,
    strategy: config.recursorStrategy,
    timeoutMs: config.recursorTimeoutMs,
    clock,
    random,
  })
  const lookup = new Lookup({
    tables: options.tables,
    query: options.query,
    datacenter: options.datacenter,
    onlyPassing: config.onlyPassing,
    random,
    monotonicMs: () => clock.monotonicMs(),
  })
  const zone = new Zone({
    config,
    zones: zonesOf(domain, altDomain),
    datacenter: options.datacenter,
    lookup,
    nowMs: () => clock.nowMs(),
    freshness: options.freshness,
  })
  const { tables } = options
  const nowMs = () => clock.nowMs()
  const keptAnswers = () => new KeptAnswers({ tables, nowMs, random })
  const responder = new Responder({ zone, config, recursors, logger, keptAnswers })

  const tcp = createTcpDoor({
    clock,
    onConnections: count => metrics.connections.set(count),
    respond: async message => {
      const reply = await responder.respond(message, 'tcp')
      metrics.count('tcp', reply)
      return reply
    },
  })
  const { udp, port } = await bindBoth(tcp.server, options)
  udp.on('error', error => logger.warn({ error: messageOf(error) }, 'dns socket error'))
  tcp.server.on('error', error => logger.warn({ error: messageOf(error) }, 'dns socket error'))
  let closed = false
  const send = (reply: Buffer | undefined, toPort: number, toAddress: string) => {
    metrics.count('udp', reply)
    if (!reply || closed || udp.getSendQueueSize() > maxQueuedBytes) return
    // Without a callback: what the kernel refuses is lost, as the network might have lost it.
    udp.send(reply, toPort, toAddress)
  }
  udp.on('message', (message, from) => {
    // A datagram from port 0 cannot be answered.
    if (from.port === 0) return
    const reply = responder.respond(message, 'udp')
    if (reply instanceof Promise) void reply.then(late => send(late, from.port, from.address))
    else send(reply, from.port, from.address)
  })
  logger.info({ address: options.address, port }, 'dns door open')
  return {
    port,
    async close() {
      closed = true
      recursors.close()
      await Promise.all([tcp.close(), new Promise<void>(resolve => udp.close(() => resolve()))])
    },
  }
}

async function bindBoth(tcp: ReturnType<typeof createTcpDoor>['server'], options: DnsDoorOptions): Promise<{ udp: Socket; port: number }> {
  const { address, logger } = options
  for (let attempt = 1; ; attempt++) {
    try {
      await new Promise<void>((resolve, reject) => {
        tcp.once('error', reject)
        tcp.listen({ host: address, port: options.port }, () => {
          tcp.off('error', reject)
          resolve()
        })
      })
      const bound = tcp.address()
      const port = typeof bound === 'object' && bound !== null ? bound.port : options.port
      return { udp: await bindUdp(address, port), port }
    } catch (error) {
      if (tcp.listening) await new Promise<void>(resolve => tcp.close(() => resolve()))
      if (options.port === 0 && attempt < maxPortAttempts) {
        logger.debug({ error: messageOf(error) }, 'a port that was free for tcp is taken for udp; trying another')
        continue
      }
      throw new MeshError(
        'unavailable',
        `cannot open the DNS door on ${address}:${options.port} (${messageOf(error)}); set ports.dns to a free port, or to -1 to do without`,
        { cause: error },
      )
    }
  }
}

function bindUdp(address: string, port: number): Promise<Socket> {
  const family = isIP(address) === 6 ? 6 : 4
  const socket = createSocket({
    type: family === 6 ? 'udp6' : 'udp4',
    // Node looks up whatever it sends to, addresses too, in a later turn; only addresses come here, and they are known at once.
    lookup: (host, _options, found) => found(null, host, family),
  })
  return new Promise((resolve, reject) => {
    socket.once('error', error => {
      socket.close()
      reject(error)
    })
    socket.bind({ address, port, exclusive: true }, () => {
      socket.removeAllListeners('error')
      resolve(socket)
    })
  })
}
