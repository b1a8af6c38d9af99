/**
 * The peerings of this cluster: what operators ask for and what becomes of it (spec/peering-wire.md 4, 9; http-api.md 6). Stored
 * states change here and nowhere else; ACTIVE and FAILING are computed when somebody reads. Deleting or losing a peer touches only
 * what lies under that peer.
 */
import { randomUUID } from 'node:crypto'
import type { Clock } from '../../lib/clock.ts'
import { MeshError, messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import type { Registry } from '../../lib/metrics.ts'
import { Turns } from '../../lib/turns.ts'
import type { Freshness } from '../../mesh/freshness.ts'
import type { Locality } from '../../mesh/node.ts'
import { dialledServers, type Peering, type StoredPeering } from '../../mesh/peering.ts'
import { encodeToken, type PeeringToken } from '../../mesh/peering-token.ts'
import { peeringServerName } from '../../mesh/sni.ts'
import type { CertificateAuthority } from '../ca/authority.ts'
import type { Catalog } from '../catalog/catalog.ts'
import { keys } from '../catalog/keys.ts'
import type { Reading, Tables } from '../catalog/tables.ts'
import type { Store } from '../store/store.ts'
import { Acceptor, type PeerStreamHandlers } from './acceptor.ts'
import { localGatewayAddresses, serverAddresses } from './addresses.ts'
import { dialledAddresses, readToken, spendToken, type Spender } from './exchange.ts'
import { Exporter } from './exporter.ts'
import { Importer, type ImportLimits } from './importer.ts'
import { LivePeering, streamStatusOf } from './live-peering.ts'
import { peeringMetrics } from './metrics.ts'
import { PeeringRecords, putSecrets } from './records.ts'
import {
  checkEnabled,
  checkEstablishRequest,
  checkTokenRequest,
  checkWritable,
  invalid,
  type EstablishRequest,
  type GenerateTokenRequest,
  type PeeringSwitches,
} from './requests.ts'
import { newSecret, withToken, type DialerSecrets } from './secrets.ts'
import type { Identity } from './session.ts'
import { grpcTransport, type PeerTransport, type Target } from './transport.ts'
import { PeeringView } from './view.ts'

export interface PeeringsOptions {
  store: Store
  tables: Tables
  catalog: Catalog
  ca: Pick<CertificateAuthority, 'trustDomain' | 'roots'>
  datacenter: string
  /** Of the servers; a region, and perhaps a zone. */
  locality?: Locality | undefined
  clock: Clock
  logger: Logger
  metrics: Registry
  /** Own host:port of grpc_tls, as others dial it. */
  addresses: () => string[]
  enabled: PeeringSwitches
  /** Whether a token without CA may be dialled in plaintext. */
  allowPlaintext: boolean
  importLimits?: ImportLimits
  /** gRPC, unless told. */
  transport?: PeerTransport
  /** For jitter: 0..1. */
  random?: () => number
}

export class Peerings {
  readonly #options: PeeringsOptions
  readonly #records: PeeringRecords
  readonly #transport: PeerTransport
  readonly #random: () => number
  /** By the peering's id. */
  readonly #live = new Map<string, LivePeering>()
  readonly #view: PeeringView
  readonly #cleaning = new Set<Promise<void>>()
  /** By name: making, establishing and clearing away never overlap. */
  readonly #turns = new Turns()
  #closed = false
  readonly handlers: PeerStreamHandlers

  constructor(options: PeeringsOptions) {
    this.#options = options
    this.#records = new PeeringRecords(options.store, options.tables)
    this.#transport = options.transport ?? grpcTransport
    this.#random = options.random ?? Math.random
    this.handlers = new Acceptor({
      tables: options.tables,
      records: this.#records,
      clock: options.clock,
      logger: options.logger,
      ready: () => !this.#closed && options.ca.roots().value.roots.length > 0,
      isBusy: id => this.#live.get(id)?.isBusy ?? false,
      begin: (peering, link, anew) => this.#liveOf(peering).begin(this.#identity(peering, ''), link, anew),
    })
    this.#view = new PeeringView({ tables: options.tables, clock: options.clock, live: id => this.#live.get(id) })
    peeringMetrics(options.metrics, () => this.#view.conditions())
  }

  /** Takes up what is stored: dials, and finishes deletions that a stop interrupted. */
  async start(): Promise<void> {
    for (const peering of this.#options.tables.peerings().value) {
      if (peering.state === 'DELETING') this.#clean(peering)
      else if (peering.state === 'TERMINATED') this.#work(peering, () => this.#forgetRest(peering.name))
      else if (isDialer(peering)) await this.#dial(peering, false)
    }
  }

  /** No new streams; those that others dialled are asked to come back. True when there were any, whose last words need a moment. */
  release(): boolean {
    this.#closed = true
    const dialled = [...this.#live.values()].filter(live => live.isDialled)
    for (const live of dialled) live.leave()
    return dialled.length > 0
  }

  /** After everything that is stored has become something else: ends every stream and takes up what is stored now. */
  async restart(): Promise<void> {
    await Promise.all(Array.from(this.#live.values(), live => live.stop({ cancel: true })))
    this.#live.clear()
    await this.start()
  }

  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(Array.from(this.#live.values(), live => live.stop({ cancel: true })))
    this.#live.clear()
    await Promise.all(this.#cleaning)
  }

  async generateToken(request: GenerateTokenRequest): Promise<string> {
    const { tables, ca, addresses, datacenter } = this.#options
    checkTokenRequest(request, this.#options.enabled)
    const name = request.peerName
    const roots = ca.roots().value.roots
    if (roots.length === 0) throw invalid('CA has not finished initializing')
    const servers = serverAddresses(tables, addresses)
    if (servers.throughGateways && servers.value.length === 0) {
      throw invalid('servers are configured to PeerThroughMeshGateways, but no mesh gateway instances are registered')
    }
    checkWritable(tables.peering(name).value)
    const secret = newSecret()
    const peering = await this.#turns.run(name, () => this.#acceptorFor(name, request.meta, secret))
    return encodeToken({
      ca: roots.map(root => withNewline(root.rootCert)),
      manualServerAddresses: request.serverExternalAddresses ?? [],
      serverAddresses: servers.value,
      serverName: peeringServerName(datacenter, ca.trustDomain),
      peerId: peering.id,
      establishmentSecret: secret,
      remote: this.#own(),
    })
  }

  /** What a peer is told of where we are. */
  #own(): { partition: string; datacenter: string; locality?: Locality } {
    const { datacenter, locality } = this.#options
    return { partition: '', datacenter, ...(locality?.region && { locality }) }
  }

  /** The acceptor's record, new or as it is, with a new establishment secret. One that the peer ended begins anew under a new id. */
  async #acceptorFor(name: string, meta: Record<string, string> | undefined, secret: string): Promise<Peering> {
    const { tables } = this.#options
    for (;;) {
      const current = tables.peering(name).value
      if (current && isDialer(current)) throw invalid(`cannot create peering with name: "${name}"; there is already an established peering`)
      checkWritable(current)
      if (current && current.state !== 'TERMINATED') {
        const { secrets, modRevision } = await this.#records.secrets(current.id)
        const next = withToken(secrets?.role === 'acceptor' ? secrets : undefined, secret)
        if (!(await this.#records.swapSecrets(current.id, next, modRevision))) continue
        await this.#records.touch(current)
        return current
      }
      if (current) await this.#forget(current)
      const created = newPeering(name, meta)
      const stored = await this.#records.update(name, found => (found && found.state !== 'TERMINATED' ? undefined : created), [
        putSecrets(created.id, withToken(undefined, secret)),
      ])
      if (stored?.id === created.id) return created
    }
  }

  async establish(request: EstablishRequest): Promise<void> {
    checkEstablishRequest(request, this.#options.enabled)
    const name = request.peerName
    const ownServerName = peeringServerName(this.#options.datacenter, this.#options.ca.trustDomain)
    const token = readToken(request.peeringToken, { ownServerName, allowPlaintext: this.#options.allowPlaintext })
    checkWritable(this.#options.tables.peering(name).value)
    await this.#turns.run(name, () => this.#establish(name, token, request.meta))
  }

  async #establish(name: string, token: PeeringToken, meta: Record<string, string> | undefined): Promise<void> {
    const existing = this.#options.tables.peering(name).value
    checkWritable(existing)
    if (existing && !isDialer(existing)) {
      throw invalid(`cannot create peering with name: "${name}"; there is an existing peering expecting to be dialed`)
    }
    // What a token says is visible even when its secret is refused; a peering that runs is not disturbed by a bad token.
    const fields = { ...fieldsOf(token), meta: meta ?? existing?.meta }
    const id = existing?.id ?? randomUUID()
    const secrets: DialerSecrets = { role: 'dialer', tokenCa: token.ca.map(withNewline) }
    if (!existing) await this.#write(name, { ...newPeering(name, fields.meta), ...fields, id }, secrets)
    const streamSecret = await this.#spend(name, token)
    await this.#live.get(id)?.stop({ cancel: true })
    this.#live.delete(id)
    // The token of another cluster: nothing of the one before stays, its trust domain least of all.
    if (existing && existing.peerServerName !== token.serverName) await this.#forgetImports(name)
    const current = this.#options.tables.peering(name).value
    checkWritable(current)
    const established: StoredPeering = { ...(current ?? newPeering(name, fields.meta)), ...fields, id, state: 'ESTABLISHING' }
    await this.#write(name, established, { ...secrets, stream: streamSecret })
    await this.#dial(established, true)
  }

  /** Our own gateways, where peering passes them, learn from the record whose name leads where before they are dialled (11). */
  async #spend(name: string, token: PeeringToken): Promise<string> {
    const gateways = localGatewayAddresses(this.#options.tables)
    const spender: Spender = { transport: this.#transport, clock: this.#options.clock, random: this.#random }
    if (gateways.length === 0) return spendToken(token, gateways, spender)
    const exchanging = { serverName: token.serverName, addresses: dialledAddresses(token) }
    const mark = (change: { exchanging?: StoredPeering['exchanging'] }) =>
      this.#records.update(name, current => (current && isDialer(current) ? { ...current, ...change } : undefined))
    await mark({ exchanging })
    try {
      return await spendToken(token, gateways, spender)
    } finally {
      await mark({ exchanging: undefined })
    }
  }

  async #write(name: string, peering: StoredPeering, secrets: DialerSecrets): Promise<void> {
    const stored = await this.#records.update(name, current => (current && current.id !== peering.id ? undefined : peering), [
      putSecrets(peering.id, secrets),
    ])
    if (stored?.id !== peering.id) throw new MeshError('conflict', `peering "${name}" was written by somebody else meanwhile; try again`)
  }

  async delete(name: string): Promise<void> {
    checkEnabled(this.#options.enabled)
    const existing = this.#options.tables.peering(name).value
    if (!existing) return
    const deletedAt = new Date(this.#options.clock.nowMs()).toISOString()
    const marked = await this.#records.update(
      existing.name,
      current => (current?.id === existing.id ? { ...current, state: 'DELETING', deletedAt } : undefined),
      [{ op: 'delete', key: keys.peeringSecrets(existing.id) }],
    )
    if (marked?.id === existing.id) this.#clean(marked)
  }

  /** The rest of a deletion: the farewell, what was imported, the record. */
  #clean(peering: Peering): void {
    this.#work(peering, () => this.#cleanNow(peering))
  }

  /** Clears away in the peering's turn; closing waits for it. */
  #work(peering: Peering, clear: () => Promise<void>): void {
    const work = this.#turns.run(peering.name, clear).catch((error: unknown) => {
      this.#options.logger.error(
        { peer: peering.name, error: messageOf(error) },
        'clearing a peering away failed; it goes on at the next start',
      )
    })
    this.#cleaning.add(work)
    void work.finally(() => this.#cleaning.delete(work))
  }

  /** What a stop kept from being forgotten when the peer had ended the peering. */
  async #forgetRest(name: string): Promise<void> {
    const { tables } = this.#options
    if (tables.peering(name).value?.state !== 'TERMINATED') return
    if (tables.importedServices(name).value.length > 0 || tables.trustBundle(name).value) await this.#forgetImports(name)
  }

  async #cleanNow(peering: Peering): Promise<void> {
    const live = this.#live.get(peering.id)
    await live?.terminate()
    await this.#forget(peering)
    this.#options.logger.info({ peer: peering.name }, 'peering deleted')
  }

  /** Removes everything that is known of a peering. */
  async #forget(peering: Peering): Promise<void> {
    this.#live.delete(peering.id)
    await this.#forgetImports(peering.name)
    await this.#records.remove(keys.peeringSecrets(peering.id), keys.peering(peering.name))
  }

  /** What the peer gave: services first, so that none is left whose caller cannot be judged. */
  async #forgetImports(name: string): Promise<void> {
    await this.#options.catalog.purgeImported(name)
    await this.#records.remove(keys.trustBundle(name))
    // Its trust domain is free again; nothing is sent twice on a stream, so who was refused for it is asked to come back.
    for (const live of this.#live.values()) if (live.status?.refusedBundle !== undefined) live.leave()
  }

  /** The other side deleted the peering: what it gave goes, the object stays for the operator to delete (9.1). */
  async #terminatedByPeer(live: LivePeering): Promise<void> {
    const { tables, logger } = this.#options
    const { id } = live
    const peering = tables.peeringById(id)
    // Established again meanwhile: the word was about the stream before.
    if (!peering || peering.state === 'DELETING' || this.#live.get(id) !== live) return
    await this.#records.update(peering.name, current =>
      current?.id === id && current.state !== 'DELETING' ? { ...current, state: 'TERMINATED' } : undefined,
    )
    await live.stop({ cancel: false })
    await this.#forgetImports(peering.name)
    logger.warn({ peer: peering.name }, 'the peer deleted this peering; delete it here or establish it again with a new token')
  }

  read(name: string): Reading<Peering | undefined> {
    return this.#view.read(name)
  }

  list(): Reading<Peering[]> {
    return this.#view.list()
  }

  /** How old what we hold of one set of a peer may be: a service, or with the suffix the proxies by which it is called. */
  freshness(peer: string, id: string): Freshness {
    return this.#view.freshness(peer, id)
  }

  #liveOf(peering: Peering): LivePeering {
    const known = this.#live.get(peering.id)
    if (known) return known
    const { tables, catalog, ca, clock, logger, datacenter, addresses, importLimits } = this.#options
    const importer = new Importer({
      tables,
      catalog,
      records: this.#records,
      ownTrustDomain: ca.trustDomain,
      peer: peering.name,
      clock,
      limits: importLimits,
    })
    const exporter = new Exporter({
      tables,
      ca,
      datacenter,
      peer: peering.name,
      serverAddresses: isDialer(peering) ? undefined : () => serverAddresses(tables, addresses),
    })
    const onTerminated = () => {
      this.#turns
        .run(peering.name, () => this.#terminatedByPeer(live))
        .catch((error: unknown) => {
          logger.error({ peer: peering.name, error: messageOf(error) }, 'ending a peering failed')
        })
    }
    const live: LivePeering = new LivePeering({
      id: peering.id,
      name: peering.name,
      tables,
      importer,
      exporter,
      transport: this.#transport,
      clock,
      random: this.#random,
      logger,
      onTerminated,
    })
    this.#live.set(peering.id, live)
    return live
  }

  async #dial(peering: Peering, justEstablished: boolean): Promise<void> {
    const { secrets } = await this.#records.secrets(peering.id)
    if (secrets?.role !== 'dialer' || secrets.stream === undefined || this.#closed) return
    this.#liveOf(peering).dial(this.#identity(peering, secrets.stream), () => this.#targets(peering, secrets), justEstablished)
  }

  #targets(peering: Peering, secrets: DialerSecrets): Target[] {
    const current = this.#options.tables.peeringById(peering.id) ?? peering
    const { tables } = this.#options
    // The roots of the trust bundle beside those of the token (7.6). With them also a peering that began in plaintext turns to TLS,
    // as a real dialer does: the addresses that come later are those of TLS.
    const { serverName, addresses } = dialledServers(current)
    const bundle = serverName === '' ? [] : (tables.trustBundle(peering.name).value?.rootPems ?? [])
    const caPems = [...new Set([...secrets.tokenCa, ...bundle])]
    return [...localGatewayAddresses(tables), ...addresses].map(address => ({ address, serverName, caPems }))
  }

  #identity(peering: Peering, streamSecret: string): Identity {
    const dialer = isDialer(peering)
    return {
      role: dialer ? 'dialer' : 'acceptor',
      peerId: dialer ? peering.peerId! : peering.id,
      peerName: peering.name,
      streamSecret,
      remote: this.#own(),
    }
  }
}

function isDialer(peering: Peering): boolean {
  return (peering.peerId ?? '') !== ''
}

function newPeering(name: string, meta: Record<string, string> | undefined): Peering {
  return {
    id: randomUUID(),
    name,
    meta,
    state: 'PENDING',
    streamStatus: streamStatusOf(undefined),
    createIndex: 0,
    modifyIndex: 0,
    remote: { partition: '', datacenter: '' },
  }
}

function fieldsOf(token: PeeringToken) {
  return {
    peerId: token.peerId,
    peerCaPems: token.ca.map(withNewline),
    peerServerName: token.serverName,
    peerServerAddresses: token.serverAddresses,
    manualServerAddresses: token.manualServerAddresses,
    remote: token.remote,
  }
}

function withNewline(pem: string): string {
  return pem.endsWith('\n') ? pem : `${pem}\n`
}
