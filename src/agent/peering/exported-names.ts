/** Which of our services a peer may know of (spec/peering-wire.md 7.1): names given by exported-services, and for `*` every ordinary service and every name that has a chain. */
import { isTypical, type CheckServiceNode } from '../../mesh/service.ts'
import { sidecarSuffix } from '../../wire/peer-stream.ts'
import { chainNames } from '../catalog/chains.ts'
import type { Reading, Tables } from '../catalog/tables.ts'

/** Our servers' own service never leaves. */
export const neverExported = 'consul'

/** Ordinary instances only; proxies and gateways never travel as they are (7.2). */
export function exportable(name: string, instances: readonly CheckServiceNode[]): CheckServiceNode[] {
  return name.endsWith(sidecarSuffix) ? [] : instances.filter(instance => isTypical(instance.service.kind))
}

/** Sorted plain names: those given by name, registered or not, and for `*` those that are ordinary. `note` sees every reading. */
export function exportedNames(
  tables: Tables,
  peer: string,
  note: <T>(reading: Reading<T>) => T,
  isOrdinary: (name: string) => boolean,
): string[] {
  const entry = note(tables.configEntry('exported-services', 'default'))
  const rows = entry?.services.filter(each => each.consumers.some(consumer => consumer.peer === peer)) ?? []
  const names = new Set<string>()
  for (const { name } of rows) {
    if (name !== '*') names.add(name)
    else {
      for (const each of note(tables.services()).keys()) if (each !== neverExported && isOrdinary(each)) names.add(each)
      for (const each of note(chainNames(tables))) names.add(each)
    }
  }
  names.delete(neverExported)
  return [...names].toSorted()
}
