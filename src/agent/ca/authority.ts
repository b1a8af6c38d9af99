/**
 * The certificate authority of one cluster: makes and rotates its roots, signs leaves, and keeps roots for as long as a leaf that
 * they signed is valid. Its keys never leave this folder. Everything is in the store before anyone sees it, so two servers on one
 * store act as one CA.
 */
import { createPublicKey, randomUUID, type KeyObject } from 'node:crypto'
import { systemClock, type Clock, type Timer } from '../../lib/clock.ts'
import { MeshError, messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import { parseSpiffeId, serverId, serviceId, trustDomainOf } from '../../mesh/spiffe.ts'
import { peeringServerName } from '../../mesh/sni.ts'
import { keys } from '../catalog/keys.ts'
import type { CaRoot, Reading, Tables } from '../catalog/tables.ts'
import type { Op, Store, Watch } from '../store/store.ts'
import {
  putConfiguration,
  putKey,
  putLedger,
  putRoot,
  readConfigurationRecord,
  readKey,
  readLedger,
  readRoots,
  SerialNumbers,
  type StoredConfiguration,
} from './ca-records.ts'
import { leafCertificate, newPrivateKey, privateKeyPem, serialText, type Signer } from './certificate.ts'
import { readConfiguration, readSettings, type CaConfiguration, type CaSettings } from './configuration.ts'
import { CsrLimiter } from './csr-limiter.ts'
import { readSigningRequest } from './csr.ts'
import { LeafCache } from './leaf-cache.ts'
import { commonNameOf, crossSign, crossSignedValidity, newRoot, validIntermediates } from './root.ts'

export interface SignedLeaf {
  /** The leaf, then the intermediates that lead to older roots. */
  certPem: string
  /** Colon-separated hex, as the API prints it. */
  serialNumber: string
  uri: string
  validAfterMs: number
  validBeforeMs: number
  /** The store's revision at which it was issued. */
  index: number
}

export interface OwnLeaf extends SignedLeaf {
  /** SEC1, `EC PRIVATE KEY`. */
  privateKeyPem: string
}

export interface CertificateAuthorityOptions {
  store: Store
  tables: Tables
  datacenter: string
  clock?: Clock
  logger: Logger
  /** The UUID in the trust domain of a new cluster; random unless told. */
  clusterId?: string
  random?: () => number
}

interface State {
  configuration: StoredConfiguration
  settings: CaSettings
  active: CaRoot
  signer: Signer
  rootIds: string
}

/** A leaf is valid from a minute ago, so that a neighbour's slower clock accepts it. */
const backdateMs = 60_000
/** Every handshake carries them. */
const maxIntermediates = 4
const pruneEveryMs = 3_600_000
/** A rotated-out root outlives its last leaf by this, for clocks that differ. */
const pruneSlackMs = 3_600_000

export class CertificateAuthority {
  readonly #store: Store
  readonly #tables: Tables
  readonly #datacenter: string
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #limiter: CsrLimiter
  readonly #serials: SerialNumbers
  readonly #leaves: LeafCache
  readonly #listeners = new Set<() => void>()
  #state: State
  #watch: Watch | undefined
  #pruning: Timer | undefined
  #closed = false
  /** Changes of the roots run one after another. */
  #changes: Promise<unknown> = Promise.resolve()
  #reloads: Promise<unknown> = Promise.resolve()

  private constructor(options: CertificateAuthorityOptions, state: State) {
    this.#store = options.store
    this.#tables = options.tables
    this.#datacenter = options.datacenter
    this.#clock = options.clock ?? systemClock
    this.#logger = options.logger
    this.#state = state
    this.#serials = new SerialNumbers(options.store)
    this.#limiter = new CsrLimiter(this.#clock)
    this.#limiter.configure(state.settings.csrMaxPerSecond)
    this.#leaves = new LeafCache({ clock: this.#clock, random: options.random ?? Math.random, issue: service => this.#issue(service) })
  }

  /** Creates the cluster's id and first root where there are none. */
  static async open(options: CertificateAuthorityOptions): Promise<CertificateAuthority> {
    const revision = await createCluster(options)
    const ca = new CertificateAuthority(options, await readState(options.store))
    await options.tables.reached(revision)
    ca.#follow(revision)
    await ca.#prune()
    return ca
  }

  /** `<uuid>.consul`. */
  get trustDomain(): string {
    return `${this.#state.configuration.clusterId}.consul`
  }

  roots(): Reading<{ activeRootId: string; trustDomain: string; roots: CaRoot[] }> {
    const { value, index, topics } = this.#tables.caRoots()
    const activeRootId = value.roots.find(root => root.active)?.id ?? this.#state.active.id
    return { value: { activeRootId, trustDomain: this.trustDomain, roots: value.roots }, index, topics }
  }

  configuration(): CaConfiguration {
    const { clusterId: _, ...configuration } = this.#state.configuration
    return configuration
  }

  /** Takes what a client PUT. A change of the key's kind makes a new root; changed lifetimes count from the next certificate on. */
  setConfiguration(input: unknown): Promise<void> {
    const wanted = readConfiguration(input)
    return this.#change(async () => {
      const { configuration, active } = this.#state
      const next: StoredConfiguration = { ...wanted, clusterId: configuration.clusterId }
      const { key } = readSettings(next.config)
      const rotates = key.type !== active.privateKeyType || key.bits !== active.privateKeyBits
      const rotation = rotates ? await this.#rotation(readSettings(next.config)) : { compare: [], ops: [] }
      return {
        compare: [{ key: keys.caConfiguration(), modRevision: configuration.modifyIndex }, ...rotation.compare],
        ops: [putConfiguration(next), ...rotation.ops],
      }
    })
  }

  /** A new root; for a week the old one vouches for it, so that who has not heard of it yet accepts its leaves. */
  rotate(): Promise<void> {
    return this.#change(() => this.#rotation(this.#state.settings))
  }

  /** Signs for exactly `expectUri`, which the caller has found the requester to be entitled to (data-plane.md 2.3). */
  async signCsr(csrPem: string, expectUri: string): Promise<SignedLeaf> {
    this.#limiter.take()
    const { uri, publicKey } = readSigningRequest(csrPem)
    const lower = uri.replace(/^spiffe:\/\/[^/]*/i, host => host.toLowerCase())
    const domain = trustDomainOf(lower)
    if (domain !== this.trustDomain) {
      throw new MeshError('bad-request', `SPIFFE ID in CSR from a different trust domain: ${domain ?? uri}, we are ${this.trustDomain}`)
    }
    const identity = parseSpiffeId(lower)
    if (!identity) throw new MeshError('bad-request', `SPIFFE ID in CSR is not in a known form: ${uri}`)
    if (identity.datacenter !== this.#datacenter) {
      throw new MeshError('bad-request', `SPIFFE ID in CSR from a different datacenter: ${identity.datacenter}, we are ${this.#datacenter}`)
    }
    if (lower !== expectUri) throw new MeshError('bad-request', `SPIFFE ID in CSR is not the requester's own: ${uri}`)
    return this.#sign({ spiffeId: expectUri, publicKey })
  }

  /** The leaf of a service with its key: the same one until it is due for renewal. Any name may be asked for (data-plane.md 2.3). */
  issueLeaf(service: string): Promise<OwnLeaf> {
    return this.#leaves.get(service)
  }

  /** The leaf once its index is greater than `index`, or the same one at the timeout or abort: a blocking query. */
  waitForLeaf(service: string, index: number, timeoutMs: number, signal?: AbortSignal): Promise<OwnLeaf> {
    return this.#leaves.waitFor(service, index, timeoutMs, signal)
  }

  /** For the gRPC port: the DNS name that a peering dialer sends as SNI, and the server's identity. */
  issueServerCertificate(): Promise<OwnLeaf> {
    const name = peeringServerName(this.#datacenter, this.trustDomain)
    return this.#issueOwn(serverId(this.trustDomain, this.#datacenter), [name])
  }

  /** Called after the set of roots, or the active one, changed. */
  onRootsChanged(listener: () => void): { close(): void } {
    const own = (): void => listener()
    this.#listeners.add(own)
    return { close: () => void this.#listeners.delete(own) }
  }

  close(): void {
    this.#closed = true
    this.#watch?.close()
    this.#pruning?.cancel()
    this.#leaves.close()
    this.#listeners.clear()
  }

  // ---- signing

  #issue(service: string): Promise<OwnLeaf> {
    return this.#issueOwn(serviceId(this.trustDomain, this.#datacenter, service))
  }

  async #issueOwn(spiffeId: string, dnsNames: string[] = []): Promise<OwnLeaf> {
    const key = await newPrivateKey({ type: 'ec', bits: 256 })
    const leaf = await this.#sign({ spiffeId, publicKey: createPublicKey(key), dnsNames })
    return { ...leaf, privateKeyPem: privateKeyPem(key) }
  }

  async #sign(request: { spiffeId: string; publicKey: KeyObject; dnsNames?: string[] }): Promise<SignedLeaf> {
    const { settings, active, signer } = this.#state
    // Whole seconds, which is all that a certificate can say.
    const nowMs = Math.floor(this.#clock.nowMs() / 1000) * 1000
    const notBeforeMs = nowMs - backdateMs
    const notAfterMs = Math.min(notBeforeMs + settings.leafTtlMs, Date.parse(active.notAfter))
    const { serial, revision } = await this.#serials.take(active.id, notAfterMs)
    const leaf = leafCertificate({ ...request, serial, signer, validity: { notBeforeMs, notAfterMs } })
    await this.#tables.reached(revision)
    return {
      certPem: leaf + validIntermediates(active, nowMs).join(''),
      serialNumber: serialText(serial),
      uri: request.spiffeId,
      validAfterMs: notBeforeMs,
      validBeforeMs: notAfterMs,
      index: revision,
    }
  }

  // ---- roots

  async #rotation(settings: CaSettings): Promise<{ compare: { key: string; modRevision: number }[]; ops: Op[] }> {
    const { active, configuration, signer } = this.#state
    const { serial } = await this.#serials.take()
    const made = await newRoot({ clusterId: configuration.clusterId, serial, settings, nowMs: this.#clock.nowMs() })
    // The old root is needed for as long as what it signs here counts.
    const validity = crossSignedValidity(active, this.#clock.nowMs())
    const { serial: crossSerial } = await this.#serials.take(active.id, validity.notAfterMs)
    const intermediate = crossSign({ root: made.root, key: made.key, signer, serial: crossSerial, validity })
    // A peer that was away for more than one rotation knows an older root only: the way back to it goes along.
    const intermediateCerts = [intermediate, ...validIntermediates(active, this.#clock.nowMs())].slice(0, maxIntermediates)
    return {
      compare: [{ key: keys.caRoot(active.id), modRevision: active.modifyIndex }],
      ops: [putKey(made.root.id, made.key), putRoot({ ...active, active: false }), putRoot({ ...made.root, intermediateCerts })],
    }
  }

  /** Runs one change of configuration or roots, and returns when everyone here has seen it. */
  #change(prepare: () => Promise<{ compare: { key: string; modRevision: number }[]; ops: Op[] }>): Promise<void> {
    const run = this.#changes.then(async () => {
      const { ok, revision } = await this.#store.txn(await prepare())
      if (!ok) {
        await this.#reload()
        throw new MeshError('conflict', 'the CA was changed by another server at the same time; try again')
      }
      await this.#tables.reached(revision)
      await this.#reload()
    })
    this.#changes = run.catch(() => undefined)
    return run
  }

  /** One at a time, so that a change is told once and an older reading never replaces a newer one. */
  #reload(): Promise<void> {
    const run = this.#reloads.then(() => this.#readAgain())
    this.#reloads = run.catch(() => undefined)
    return run
  }

  async #readAgain(): Promise<void> {
    const before = this.#state
    this.#state = await readState(this.#store)
    this.#limiter.configure(this.#state.settings.csrMaxPerSecond)
    if (before.rootIds === this.#state.rootIds) return
    if (before.active.id !== this.#state.active.id) {
      this.#logger.info({ root: this.#state.active.id, previous: before.active.id }, 'the CA signs with a new root')
      this.#leaves.rootChanged()
    }
    for (const listener of this.#listeners) listener()
  }

  /** Sees what other servers on this store do to the CA. */
  #follow(revision: number): void {
    const reload = (): void => {
      this.#reload().catch((error: unknown) =>
        this.#logger.error({ error: messageOf(error) }, 'the CA could not be read; it goes on as it was'),
      )
    }
    this.#watch = this.#store.watch('ca/', revision, {
      onBatch: batch => {
        if (batch.events.some(event => event.key !== keys.caLedger())) reload()
      },
      onCompacted: compacted => {
        reload()
        if (!this.#closed) this.#follow(Math.max(compacted, this.#store.revision))
      },
    })
  }

  /** Drops rotated-out roots, and their keys, when all that they signed has ended; then again in an hour. */
  async #prune(): Promise<void> {
    try {
      await this.#changes
      const { ledger, modRevision } = await readLedger(this.#store)
      const roots = await readRoots(this.#store)
      const ended = roots.filter(root => !root.active && (ledger.neededUntilMs[root.id] ?? 0) + pruneSlackMs < this.#clock.nowMs())
      if (ended.length > 0) {
        const neededUntilMs = Object.fromEntries(Object.entries(ledger.neededUntilMs).filter(([id]) => !ended.some(root => root.id === id)))
        const ops = ended.flatMap<Op>(root => [
          { op: 'delete', key: keys.caRoot(root.id) },
          { op: 'delete', key: keys.caKey(root.id) },
        ])
        // The comparison catches a leaf that was signed in the meantime by a server that had not heard of the rotation.
        const compare = [{ key: keys.caLedger(), modRevision }]
        await this.#store.txn({ compare, ops: [...ops, putLedger({ ...ledger, neededUntilMs })] })
        await this.#reload()
      }
    } catch (error) {
      this.#logger.error({ error: messageOf(error) }, 'old CA roots could not be pruned; it is tried again in an hour')
    }
    if (!this.#closed) this.#pruning = this.#clock.after(pruneEveryMs, () => void this.#prune())
  }
}

/** Makes the cluster's id, configuration and first root, unless they are there. Returns the revision that has them. */
async function createCluster({ store, clock = systemClock, clusterId }: CertificateAuthorityOptions): Promise<number> {
  if (await readConfigurationRecord(store)) return store.revision
  const id = clusterId ?? randomUUID()
  const configuration = readConfiguration({})
  const { root, key } = await newRoot({ clusterId: id, serial: 1, settings: readSettings(configuration.config), nowMs: clock.nowMs() })
  const { revision } = await store.txn({
    compare: [{ key: keys.caConfiguration(), modRevision: 0 }],
    ops: [
      putConfiguration({ ...configuration, clusterId: id }),
      putLedger({ lastSerial: 1, neededUntilMs: {} }),
      putKey(root.id, key),
      putRoot(root),
    ],
  })
  // Whether we or another server made it, it is there now.
  return revision
}

async function readState(store: Store): Promise<State> {
  const configuration = await readConfigurationRecord(store)
  const roots = await readRoots(store)
  const active = roots.find(root => root.active)
  if (!configuration || !active) throw new MeshError('internal', 'the CA has no active root; restore the data directory')
  const signer = { commonName: commonNameOf(active), key: await readKey(store, active.id) }
  const rootIds = roots.map(root => `${root.id}${root.active ? '*' : ''}`).join(' ')
  return { configuration, settings: readSettings(configuration.config), active, signer, rootIds }
}
