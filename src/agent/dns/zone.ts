/**
 * Answers from our own zones: a form becomes records (dns.md 2 to 4). Synchronous, from memory; names outside the zones that an
 * answer points at are left as `chase` for whoever may ask a recursor. Work is bounded by the room that the reply has.
 */
import { isIP } from 'node:net'
import { parseDuration } from '../../lib/duration.ts'
import { describeFreshness, type Freshness } from '../../mesh/freshness.ts'
import type { DnsRecord, Edns, SoaRecord } from '../../wire/dns/records.ts'
import { rcodes, rrTypes, type Rcode } from '../../wire/dns/records.ts'
import { addressBytes } from '../../lib/address-bytes.ts'
import type { DnsConfig } from '../config.ts'
import { addressRecord, fqdn, hostOf, poolOf, type AddressPool } from './hosts.ts'
import type { Instance, Lookup } from './lookup.ts'
import { metaRecords } from './node-meta.ts'
import { matchZone, parseForm, type Form, type ZoneMatch, type Zones } from './question.ts'

export interface ZoneQuestion {
  labels: readonly string[]
  /** As it came, with its closing dot. */
  name: string
  type: number
  edns: Edns | undefined
  /** Answers worth making: one more than can be sent. */
  wanted: number
  /** Bytes that can be sent. */
  bytes: number
}

/** A name outside our zones whose addresses belong into a section. */
export interface Chase {
  name: string
  into: 'answer' | 'additional'
  ttl: number
}

export interface ZoneAnswer {
  rcode: Rcode
  answer: DnsRecord[]
  authority: DnsRecord[]
  additional: DnsRecord[]
  chase: Chase[]
  /** The answer stays as it is while these do; undefined when it is to be made anew each time. */
  topics: readonly string[] | undefined
  /** What the addresses of such an answer are drawn from, where there is a choice. */
  pool: AddressPool | undefined
  /** The answers are all that there are, or too many to be sent, in an order that is another each time. */
  shuffled: boolean
  /** The answer depends on the client's subnet (RFC 7871). */
  scoped: boolean
}

/** How deep, and how often in one query, a service whose address is another name of the zone is followed. */
const maxDepth = 3
const maxInner = 8
const maxServers = 3
/** Records taken from a chased name when the client has no EDNS (dns.md 6). */
export const maxChasedRecords = 5

/** Names are followed on behalf of one query: how deep, and how often in all, it may still be done. */
interface Following {
  depth: number
  budget: { inner: number }
}

export interface ZoneOptions {
  config: DnsConfig
  zones: Zones
  datacenter: string
  lookup: Lookup
  nowMs: () => number
  freshness: (peer: string, service: string) => Freshness
}

export class Zone {
  readonly #config: DnsConfig
  readonly #datacenter: string
  readonly #lookup: Lookup
  readonly #nowMs: () => number
  readonly #freshness: (peer: string, service: string) => Freshness
  readonly #ttls: Map<string, number>
  readonly #ttlPrefixes: [string, number][]
  readonly zones: Zones

  constructor(options: ZoneOptions) {
    this.#config = options.config
    this.#datacenter = options.datacenter
    this.#lookup = options.lookup
    this.#nowMs = options.nowMs
    this.#freshness = options.freshness
    this.zones = options.zones
    const ttls = Object.entries(options.config.serviceTtlMs).map(([name, ms]): [string, number] => [name.toLowerCase(), seconds(ms)])
    this.#ttls = new Map(ttls)
    this.#ttlPrefixes = ttls
      .filter(([name]) => name.endsWith('*'))
      .map(([name, ttl]): [string, number] => [name.slice(0, -1), ttl])
      .sort(([a], [b]) => b.length - a.length)
  }

  answer(question: ZoneQuestion, match: ZoneMatch): ZoneAnswer {
    if (question.type === rrTypes.soa) {
      const { ns, glue } = this.#nameServers(match.domain)
      return { ...empty(undefined), answer: [this.#soa(match)], authority: ns, additional: glue }
    }
    if (question.type === rrTypes.ns) {
      const { ns, glue } = this.#nameServers(match.domain)
      return { ...empty(undefined), answer: ns, additional: glue }
    }
    if (question.type === rrTypes.axfr || question.type === rrTypes.ixfr) return { ...empty([]), rcode: rcodes.notImplemented }
    return this.#answerForm(question, match, { depth: maxDepth, budget: { inner: maxInner } })
  }

  #answerForm(question: ZoneQuestion, match: ZoneMatch, following: Following): ZoneAnswer {
    const form = parseForm(match, question.type)
    switch (form.form) {
      case 'service':
      case 'connect':
        return this.#serviceAnswer(form, question, match, following)
      case 'query':
        return this.#queryAnswer(form, question, match, following)
      case 'node':
        return this.#nodeAnswer(form, question, match)
      case 'virtual': {
        const { value: address, topics } = this.#lookup.virtualAddress(form)
        // Whatever was asked for, the answer is an A record (dns.md 1); its owner is lower case left of the zone, as Consul's is.
        const name = `${match.rest.join('.')}.${match.domain}`
        const record = address === undefined ? undefined : addressRecord(name, address, this.#nodeTtl)
        return { ...empty(topics), answer: record ? [record] : [] }
      }
      case 'address': {
        const record = addressRecord(form.name, form.address, this.#nodeTtl)!
        return wants(question.type, record.type, [rrTypes.any])
          ? { ...empty([]), answer: [record] }
          : { ...empty([]), additional: [record] }
      }
      case 'nothing':
        return empty([])
      case 'unknown':
        return this.nameError(match, [])
    }
  }

  /** NXDOMAIN, with the SOA that says for how long. */
  nameError(match: ZoneMatch, topics: ZoneAnswer['topics']): ZoneAnswer {
    return { ...empty(topics), rcode: rcodes.nameError, authority: [this.#soa(match)] }
  }

  /** The reverse name of one of our addresses, always in the primary domain, never cached (dns.md 2). */
  reverse(name: string, address: string): ZoneAnswer | undefined {
    const found = this.#lookup.reverse(address)
    if (found === undefined) return undefined
    return { ...empty(undefined), answer: [{ type: 'PTR', name, ttl: 0, target: `${found}.${this.zones.primary.join('.')}.` }] }
  }

  #serviceAnswer(
    form: Extract<Form, { form: 'service' | 'connect' }>,
    question: ZoneQuestion,
    match: ZoneMatch,
    following: Following,
  ): ZoneAnswer {
    const { value: instances, topics } = this.#lookup.instances(form)
    const context: ServiceContext = {
      question,
      match,
      datacenter: this.#datacenter,
      peer: form.form === 'service' ? form.peer : '',
      ttl: this.#serviceTtl(form.service),
      ...following,
      out: empty(topics),
    }
    const drawn = this.#lookup.drawn(instances)
    if (question.type === rrTypes.srv) {
      this.#srvRecords(drawn, context)
      context.out.shuffled = instances.length > 1
    } else {
      this.#hostRecords(drawn, context)
      if (question.type === rrTypes.txt && context.peer !== '' && instances.length > 0) this.#addFreshness(form.service, context)
      context.out.pool = poolOf(instances, question)
      if (context.out.answer.length > 1 && !context.out.pool) context.out.topics = undefined
    }
    return this.#settled(instances.length > 0, context)
  }

  /** As a service, in the query's own order; made anew each time, because it may depend on who asks. */
  #queryAnswer(form: Extract<Form, { form: 'query' }>, question: ZoneQuestion, match: ZoneMatch, following: Following): ZoneAnswer {
    const found = this.#lookup.query(form)
    if (!found) return this.nameError(match, undefined)
    const { result, instances } = found
    const own = result.ttl === '' ? undefined : parseDuration(result.ttl)
    const context: ServiceContext = {
      question,
      match,
      datacenter: result.datacenter,
      peer: result.peerName,
      ttl: own === undefined ? this.#serviceTtl(result.service.toLowerCase()) : seconds(own),
      ...following,
      out: { ...empty(undefined), scoped: true },
    }
    if (question.type === rrTypes.srv) this.#srvRecords(instances, context)
    else this.#hostRecords(instances, context)
    return this.#settled(instances.length > 0, context)
  }

  /** No instance is NXDOMAIN; instances without a record of the type that was asked for are an empty answer. */
  #settled(found: boolean, { out, match }: ServiceContext): ZoneAnswer {
    if (!found) return this.nameError(match, out.topics)
    if (out.answer.length === 0) out.authority.push(this.#soa(match))
    return out
  }

  /** isthmus's own: a TXT query for an imported service tells its age too, before the addresses; it is never kept, here or by who asks. */
  #addFreshness(service: string, { question, peer, out }: ServiceContext): void {
    const text = `isthmus-freshness=${describeFreshness(this.#freshness(peer, service))}`
    out.answer.unshift({ type: 'TXT', name: question.name, ttl: 0, text })
    out.topics = undefined
  }

  /** Addresses of instances, each once; an alias only where there is no address, and only one. */
  #hostRecords(instances: Iterable<Instance>, context: ServiceContext): void {
    const { question, ttl, out } = context
    const limit = Math.min(question.wanted, this.#config.aRecordLimit || Number.POSITIVE_INFINITY)
    const seen = new Set<string>()
    let alias: string | undefined
    for (const { instance } of instances) {
      const host = hostOf(instance.service.address, instance.node.address, question.name)
      if (host === undefined) continue
      if (isIP(host) === 0) {
        alias ??= host
        continue
      }
      const record = addressRecord(question.name, host, ttl)!
      if (seen.has(record.address) || !wants(question.type, record.type, [rrTypes.any, rrTypes.txt])) continue
      seen.add(record.address)
      out.answer.push(record)
      if (out.answer.length >= limit) break
    }
    if (out.answer.length === 0 && alias !== undefined) {
      out.answer.push({ type: 'CNAME', name: question.name, ttl, target: fqdn(alias) })
      this.#follow(alias, 'answer', context)
    }
  }

  #srvRecords(instances: Iterable<Instance>, context: ServiceContext): void {
    const { question, ttl, out } = context
    const seen = new Set<string>()
    for (const { instance, weight } of instances) {
      const { node, service } = instance
      const key = `${node.node} ${service.address} ${service.port ?? 0}`
      const host = hostOf(service.address, node.address, question.name)
      if (seen.has(key) || host === undefined) continue
      seen.add(key)
      const nodeName = this.#nodeName(node.node, context)
      const target = this.#srvTarget(host, service.address, nodeName, context)
      out.answer.push({ type: 'SRV', name: question.name, ttl, priority: 1, weight, port: service.port ?? 0, target })
      const address = addressRecord(target, host, ttl)
      if (address) out.additional.push(address)
      else this.#follow(host, 'additional', context)
      if (this.#config.enableAdditionalNodeMetaTxt && mayFit(out, question)) out.additional.push(...metaRecords(nodeName, node, ttl))
      if (out.answer.length >= question.wanted) break
    }
  }

  /** dns.md 2: an address of the instance's own gets an `addr` name, the node's address the node's name, a name stays itself. */
  #srvTarget(host: string, serviceAddress: string, nodeName: string, { match, peer, datacenter }: ServiceContext): string {
    if (isIP(host) === 0) return fqdn(host)
    if (host !== serviceAddress) return nodeName
    // For a peer there is no datacenter label (dns.md 3).
    const place = peer === '' ? `${datacenter}.` : ''
    return `${addressBytes(host).toString('hex')}.addr.${place}${match.domain}`
  }

  #nodeName(node: string, { match, peer, datacenter }: ServiceContext): string {
    return `${node}.node.${peer === '' ? datacenter : `${peer}.peer`}.${match.domain}`
  }

  /** Follows a name that stands in for an address: inside our zones at once, outside by the caller. */
  #follow(host: string, into: Chase['into'], { question, depth, budget, ttl, out }: ServiceContext): void {
    // What is found there has topics of its own.
    out.topics = undefined
    const labels = fqdn(host).slice(0, -1).split('.')
    const match = matchZone(labels, this.zones)
    if (!match) {
      if (!out.chase.some(each => each.name === fqdn(host))) out.chase.push({ name: fqdn(host), into, ttl })
      return
    }
    if (depth < 1 || budget.inner < 1) return
    budget.inner -= 1
    const limit = question.edns ? question.wanted : maxChasedRecords
    const inner = this.#answerForm(
      { labels, name: fqdn(host), type: rrTypes.any, edns: question.edns, wanted: limit, bytes: question.bytes },
      match,
      { depth: depth - 1, budget },
    )
    const records = inner.answer.filter(record => record.type === 'A' || record.type === 'AAAA' || record.type === 'CNAME')
    out[into].push(...records.slice(0, limit).map(record => ({ ...record, ttl })))
    out.chase.push(...inner.chase.map(chase => ({ ...chase, into, ttl })))
  }

  #nodeAnswer(form: Extract<Form, { form: 'node' }>, question: ZoneQuestion, match: ZoneMatch): ZoneAnswer {
    const { value: node, topics } = this.#lookup.node(form)
    if (!node) return this.nameError(match, topics)
    const { type, name } = question
    const out = empty(topics)
    const ttl = this.#nodeTtl
    // The other types: no error and no SOA, as Consul does.
    if (type !== rrTypes.a && type !== rrTypes.aaaa && type !== rrTypes.txt && type !== rrTypes.any) return out
    const record = addressRecord(name, node.address, ttl)
    if (record && wants(type, record.type, [rrTypes.any])) out.answer.push(record)
    if (!record && type !== rrTypes.txt && node.address !== '') {
      out.answer.push({ type: 'CNAME', name, ttl, target: fqdn(node.address) })
      if (!matchZone(node.address.split('.'), this.zones)) out.chase.push({ name: fqdn(node.address), into: 'answer', ttl })
    }
    const explicit = type === rrTypes.txt || type === rrTypes.any
    if (explicit || this.#config.enableAdditionalNodeMetaTxt) {
      out[explicit ? 'answer' : 'additional'].push(...metaRecords(name, node, ttl))
    }
    return out
  }

  /** Up to three servers, owned by the zone that was asked for. A node whose name is no label is left out. */
  #nameServers(domain: string): { ns: DnsRecord[]; glue: DnsRecord[] } {
    const ns: DnsRecord[] = []
    const glue: DnsRecord[] = []
    for (const node of this.#lookup.servers()) {
      if (!/^[A-Za-z0-9-]{1,63}$/.test(node.node)) continue
      const target = `${node.node}.node.${this.#datacenter}.${domain}`.toLowerCase()
      ns.push({ type: 'NS', name: domain, ttl: this.#nodeTtl, target })
      const address = addressRecord(target, node.address, this.#nodeTtl)
      if (address) glue.push(address)
      if (ns.length === maxServers) break
    }
    return { ns, glue }
  }

  /** Owned by the apex; that of the alternative domain itself is, as in Consul, the primary's. */
  #soa(match: ZoneMatch): SoaRecord {
    const labels = match.zone === 'alternative' && match.rest.length > 0 ? this.zones.alternative! : this.zones.primary
    const domain = `${labels.join('.')}.`
    const { refresh, retry, expire, minTtl } = this.#config.soa
    return {
      type: 'SOA',
      name: domain,
      ttl: minTtl,
      mname: `ns.${domain}`,
      rname: `hostmaster.${domain}`,
      serial: Math.floor(this.#nowMs() / 1000),
      refresh,
      retry,
      expire,
      minimum: minTtl,
    }
  }

  get #nodeTtl(): number {
    return seconds(this.#config.nodeTtlMs)
  }

  /** The exact name, else the longest `prefix*` (dns.md 6). */
  #serviceTtl(service: string): number {
    return this.#ttls.get(service) ?? this.#ttlPrefixes.find(([prefix]) => service.startsWith(prefix))?.[1] ?? 0
  }
}

interface ServiceContext extends Following {
  question: ZoneQuestion
  match: ZoneMatch
  /** Of the instances; empty for a peer's. */
  datacenter: string
  peer: string
  ttl: number
  out: ZoneAnswer
}

function empty(topics: ZoneAnswer['topics']): ZoneAnswer {
  return {
    rcode: rcodes.noError,
    answer: [],
    authority: [],
    additional: [],
    chase: [],
    topics,
    pool: undefined,
    shuffled: false,
    scoped: false,
  }
}

/** False once a reply is too long for sure (no record is shorter than 13 bytes): then texts are the first to be cut, and not worth making. */
function mayFit({ answer, additional }: ZoneAnswer, question: ZoneQuestion): boolean {
  return 13 * (answer.length + additional.length) <= question.bytes
}

function seconds(ms: number): number {
  return Math.max(0, Math.min(0x7fffffff, Math.floor(ms / 1000)))
}

/** True when a query of this type gets a record of that one; `also` are query types that get addresses of both families. */
function wants(type: number, record: 'A' | 'AAAA', also: number[]): boolean {
  return type === (record === 'A' ? rrTypes.a : rrTypes.aaaa) || also.includes(type)
}
