/**
 * Writes of config entries. An entry is checked by itself and against the others before it is stored, and an identical one
 * writes nothing (spec/http-api.md 7).
 */
import { MeshError, multiError } from '../../lib/errors.ts'
import { Turns } from '../../lib/turns.ts'
import type { ConfigEntry, ConfigEntryKind } from '../../mesh/config-entry.ts'
import type { ServiceIntentions } from '../../mesh/intention-entry.ts'
import { isHttpLike, protocolOf } from '../../mesh/protocol.ts'
import { checkConfigEntry, configEntryName, normaliseConfigEntry } from '../../mesh/config-entry-check.ts'
import type { Compare, Store } from '../store/store.ts'
import { beginsChain, chainProblem, concernsChains } from './chains.ts'
import { commit, isSameRecord, putRecord, unchanged, type Proposal } from './commit.ts'
import { keys } from './keys.ts'
import type { Tables } from './tables.ts'
import { VirtualIps } from './virtual-ips.ts'

export class ConfigEntries {
  readonly #store: Store
  readonly #tables: Tables
  readonly #datacenter: string
  readonly #virtualIps: VirtualIps
  /** Writes that are judged by many other entries go one after another, so that each sees what it is judged by. */
  readonly #turns = new Turns()

  constructor(options: { store: Store; tables: Tables; datacenter: string }) {
    this.#store = options.store
    this.#tables = options.tables
    this.#datacenter = options.datacenter
    this.#virtualIps = new VirtualIps(options.tables)
  }

  /** False when `cas` names another revision than the stored one; 0 stands for an entry that does not exist. */
  async write(entry: ConfigEntry, cas?: number): Promise<boolean> {
    const next = normaliseConfigEntry(entry)
    const problem = checkConfigEntry(next)
    if (problem !== undefined) throw new MeshError('invalid', problem)
    const name = configEntryName(next)
    return this.#commit(next.kind, () => {
      const current = this.#tables.configEntry(next.kind, name).value
      // What is stored already is stored, whatever revision the caller believes in.
      if (isSameRecord(current, next)) return { result: true }
      if (cas !== undefined && cas !== (current?.modifyIndex ?? 0)) return { result: false }
      const compare = this.#checkTogether(next.kind, name, next)
      const key = keys.configEntry(next.kind, name)
      // A name that has a chain is dialled like a service, so it has an address of its own too (spec/data-plane.md 11.5).
      const claim = beginsChain(next.kind) ? this.#virtualIps.claim('', name) : { compare: [], ops: [] }
      const same = cas === undefined ? [] : [unchanged(key, current)]
      return { result: true, ops: [putRecord(key, next), ...claim.ops], compare: [...compare, ...same, ...claim.compare] }
    })
  }

  /** False when `cas` names another revision than the stored one; what is not there counts as deleted. */
  async delete(kind: ConfigEntryKind, name: string, cas?: number): Promise<boolean> {
    return this.#commit(kind, () => {
      const current = this.#tables.configEntry(kind, name).value
      if (!current) return { result: true }
      if (cas !== undefined && cas !== current.modifyIndex) return { result: false }
      const compare = this.#checkTogether(kind, name, undefined)
      const key = keys.configEntry(kind, name)
      return { result: true, ops: [{ op: 'delete', key }], compare: [...compare, ...(cas === undefined ? [] : [unchanged(key, current)])] }
    })
  }

  #commit(kind: ConfigEntryKind, propose: () => Proposal<boolean>): Promise<boolean> {
    const write = () => commit(this.#store, this.#tables, propose)
    return concernsChains(kind) || kind === 'jwt-provider' ? this.#turns.run('graph', write) : write()
  }

  /** Throws when the entries would contradict each other; else the comparisons that keep what was looked at. */
  #checkTogether(kind: ConfigEntryKind, name: string, next: ConfigEntry | undefined): Compare[] {
    if (kind === 'service-intentions') return next?.kind === kind ? this.#checkIntentions(next) : []
    if (kind === 'jwt-provider' && next === undefined) this.#refuseInUse(name)
    const problem = concernsChains(kind) ? chainProblem(this.#tables, this.#datacenter, { kind, name, entry: next }) : undefined
    if (problem !== undefined) throw new MeshError('invalid', problem)
    if (kind !== 'service-defaults' && kind !== 'proxy-defaults') return []
    const compare: Compare[] = []
    if (next?.kind === kind && next.mutualTlsMode === 'permissive') {
      const mesh = this.#tables.configEntry('mesh', 'mesh').value
      if (!mesh?.allowEnablingPermissiveMutualTls) {
        throw new MeshError(
          'invalid',
          'cannot set MutualTLSMode=permissive because AllowEnablingPermissiveMutualTLS=false in the mesh config entry',
        )
      }
      compare.push(unchanged(keys.configEntry('mesh', 'mesh'), mesh))
    }
    for (const intentions of this.#tables.configEntries('service-intentions').value) {
      if (!hasPermissions(intentions)) continue
      if (kind === 'service-defaults' && intentions.name.toLowerCase() !== name.toLowerCase()) continue
      refuseOnBytes(intentions.name, this.#protocolWith(intentions.name, kind, next))
      compare.push(unchanged(keys.configEntry('service-intentions', intentions.name), intentions))
    }
    return compare
  }

  #checkIntentions(next: ServiceIntentions): Compare[] {
    const names = providersOf(next)
    const providers = names.map(each => [each, this.#tables.configEntry('jwt-provider', each).value] as const)
    const missing = providers.filter(([, provider]) => provider === undefined)
    if (missing.length > 0) {
      throw new MeshError('invalid', multiError(missing.map(([each]) => `Referenced JWT Provider does not exist. Provider Name: ${each}`)))
    }
    const compare = providers.map(([each, provider]) => unchanged(keys.configEntry('jwt-provider', each), provider))
    if (!hasPermissions(next)) return compare
    refuseOnBytes(next.name, this.#tables.protocol(next.name).value)
    return [
      ...compare,
      unchanged(keys.configEntry('service-defaults', next.name), this.#tables.configEntry('service-defaults', next.name).value),
      unchanged(keys.configEntry('proxy-defaults', 'global'), this.#tables.configEntry('proxy-defaults', 'global').value),
    ]
  }

  #refuseInUse(provider: string): void {
    for (const entry of this.#tables.configEntries('service-intentions').value) {
      if (!providersOf(entry).some(each => each.toLowerCase() === provider.toLowerCase())) continue
      throw new MeshError(
        'invalid',
        `cannot delete jwt provider config entry referenced by an intention. Provider name: ${provider}, intention name: ${entry.name}`,
      )
    }
  }

  /** The protocol of a service if `next` took the place of the entry of its kind. */
  #protocolWith(service: string, kind: 'service-defaults' | 'proxy-defaults', next: ConfigEntry | undefined): string {
    const own = kind === 'service-defaults' ? next : this.#tables.configEntry('service-defaults', service).value
    const global = kind === 'proxy-defaults' ? next : this.#tables.configEntry('proxy-defaults', 'global').value
    return protocolOf(own?.kind === 'service-defaults' ? own : undefined, global?.kind === 'proxy-defaults' ? global : undefined)
  }
}

/** The JWT providers that an entry names, each once. */
function providersOf(entry: ServiceIntentions): string[] {
  const requirements = [entry.jwt, ...entry.sources.flatMap(source => source.permissions ?? []).map(permission => permission.jwt)]
  return [...new Set(requirements.flatMap(jwt => jwt?.providers ?? []).map(provider => provider.name))]
}

function hasPermissions(entry: ServiceIntentions): boolean {
  return entry.sources.some(source => (source.permissions ?? []).length > 0)
}

function refuseOnBytes(service: string, protocol: string): void {
  if (isHttpLike(protocol)) return
  throw new MeshError(
    'invalid',
    `service ${JSON.stringify(service)} has protocol ${JSON.stringify(protocol)}, which is incompatible with L7 intentions permissions`,
  )
}
