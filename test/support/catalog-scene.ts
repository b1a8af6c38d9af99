/** A store in a temporary directory with the tables and the writers of the catalog over it; `close` leaves nothing behind. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Catalog } from '../../src/agent/catalog/catalog.ts'
import { ConfigEntries } from '../../src/agent/catalog/config-entries.ts'
import { KvStore } from '../../src/agent/catalog/kv.ts'
import { LockDelays } from '../../src/agent/catalog/lock-delays.ts'
import { Tables } from '../../src/agent/catalog/tables.ts'
import { openEmbeddedStore } from '../../src/agent/store/embedded.ts'
import type { Store } from '../../src/agent/store/store.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLogger } from '../../src/lib/log.ts'

export interface CatalogScene {
  store: Store
  tables: Tables
  catalog: Catalog
  configEntries: ConfigEntries
  kv: KvStore
  /** Closes everything and opens it again over the same directory. */
  reopen(): Promise<void>
  close(): Promise<void>
}

export async function catalogScene(): Promise<CatalogScene> {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-catalog-'))
  const open = async () => {
    const store = await openEmbeddedStore({ dir, logger: silentLogger() })
    const tables = await Tables.open(store)
    return {
      store,
      tables,
      catalog: new Catalog({ store, tables, datacenter: 'dc1' }),
      configEntries: new ConfigEntries({ store, tables, datacenter: 'dc1' }),
      kv: new KvStore({ store, tables, delays: new LockDelays(systemClock) }),
    }
  }
  const shut = async () => {
    scene.tables.close()
    await scene.store.close()
  }
  const scene: CatalogScene = {
    ...(await open()),
    async reopen() {
      await shut()
      Object.assign(scene, await open())
    },
    async close() {
      await shut()
      rmSync(dir, { recursive: true, force: true })
    },
  }
  return scene
}
