/** Config entries as a test writes them down, as what a chain is compiled from. */
import { parseConfigEntry, type ConfigEntry, type ConfigEntryKind } from '../../src/mesh/config-entry.ts'
import { configEntryName, normaliseConfigEntry } from '../../src/mesh/config-entry-check.ts'
import { compileChain, type ChainEntries } from '../../src/mesh/discovery-chain-compiler.ts'
import type { DiscoveryChain } from '../../src/mesh/discovery-chain.ts'

/** One entry in its normal form. */
export function entryOf(body: unknown): ConfigEntry {
  const parsed = parseConfigEntry(body)
  if (!parsed.ok) throw new Error(`${JSON.stringify(body)}: ${parsed.text}`)
  return normaliseConfigEntry(parsed.value)
}

export function chainEntries(bodies: readonly unknown[]): ChainEntries {
  const entries = bodies.map(entryOf)
  const find = (kind: ConfigEntryKind, name: string) => entries.find(each => each.kind === kind && configEntryName(each) === name) as never
  return {
    router: name => find('service-router', name),
    splitter: name => find('service-splitter', name),
    resolver: name => find('service-resolver', name),
    serviceDefaults: name => find('service-defaults', name),
    proxyDefaults: () => find('proxy-defaults', 'global'),
  }
}

export function chainOf(service: string, datacenter: string, trustDomain: string, bodies: readonly unknown[]): DiscoveryChain {
  const compiled = compileChain({ service, datacenter, trustDomain }, chainEntries(bodies))
  if (!compiled.ok) throw new Error(compiled.problem)
  return compiled.chain
}
