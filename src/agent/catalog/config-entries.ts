/**
 * Writes of config entries. An entry is checked (mesh/config-entry) before it is stored, and an identical one writes nothing.
 */
import type { ConfigEntry, ConfigEntryKind } from '../../mesh/config-entry.ts'
import type { Store } from '../store/store.ts'
import type { Tables } from './tables.ts'

export class ConfigEntries {
  constructor(_options: { store: Store; tables: Tables; datacenter: string }) {}
  /** False when `cas` names another revision than the stored one. */
  write(_entry: ConfigEntry, _cas?: number): Promise<boolean> { throw todo() }
  delete(_kind: ConfigEntryKind, _name: string, _cas?: number): Promise<boolean> { throw todo() }
}
function todo(): Error { return new Error('being written') }
