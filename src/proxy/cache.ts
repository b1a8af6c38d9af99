/**
 * What a proxy keeps on disk, so that it can serve after a restart while its agent is down: the last set of resources, and its leaf
 * with the key (a set without them could not open one connection). Only where a directory is given; the directory is 0700, files are
 * 0600 and replaced whole, and a directory that others can read is refused rather than trusted.
 */
import { createHash, createPrivateKey } from 'node:crypto'
import { chmodSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import * as z from 'zod'
import { MeshError, messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { version } from '../lib/version.ts'
import { resourceKey } from '../mesh/plan.ts'
import type { Resource } from '../mesh/snapshot.ts'
import { identityOf } from './leaf.ts'
import { parseLine } from './snapshot-client.ts'
import type { ProxyIdentity } from './tls.ts'

const SavedSet = z.object({
  proxyId: z.string(),
  /** The version of isthmus that read the resources, and dropped what it did not know. */
  by: z.string().default(''),
  revision: z.number(),
  savedAtMs: z.number(),
  resources: z.array(z.unknown()),
})
const SavedLeaf = z.object({ certPem: z.string(), keyPem: z.string() })

export interface SavedResources {
  resources: ReadonlyMap<string, Resource>
  revision: number
  /** Wall clock. */
  savedAtMs: number
}

export class ProxyCache {
  readonly #dir: string
  readonly #proxyId: string
  readonly #stem: string
  readonly #logger: Logger

  /** Opens the directory, making it if need be. */
  constructor(dir: string, proxyId: string, logger: Logger) {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    // Windows has no such bits.
    if (process.platform !== 'win32' && (statSync(dir).mode & 0o077) !== 0) {
      throw new MeshError('permission-denied', `the cache directory ${dir} is open to others and would hold a key: chmod 700 it`)
    }
    this.#dir = dir
    this.#proxyId = proxyId
    this.#logger = logger
    // A proxy's id is free text; a file name is not.
    this.#stem = createHash('sha256').update(proxyId).digest('hex').slice(0, 32)
  }

  saveResources(resources: ReadonlyMap<string, Resource>, revision: number): void {
    const saved = { proxyId: this.#proxyId, by: version, revision, savedAtMs: Date.now(), resources: [...resources.values()] }
    this.#write('snapshot', JSON.stringify(saved))
  }

  saveLeaf({ certPem, keyPem }: ProxyIdentity): void {
    this.#write('leaf', JSON.stringify({ certPem, keyPem }))
  }

  /** The last set; undefined when there is none or it cannot be read any more. */
  loadResources(): SavedResources | undefined {
    return this.#read('snapshot', text => {
      const saved = SavedSet.parse(JSON.parse(text))
      if (saved.proxyId !== this.#proxyId) return undefined
      const resources = new Map<string, Resource>()
      for (const each of saved.resources) {
        const resource = parseLine(JSON.stringify(each))
        if (resource === undefined || resource.kind === 'sync') continue
        // What another version made of it is not what the agent says under this version of the resource.
        if (saved.by !== version) resource.version = `${resource.version} by ${saved.by}`
        resources.set(resourceKey(resource), resource)
      }
      return { resources, revision: saved.revision, savedAtMs: saved.savedAtMs }
    })
  }

  loadLeaf(): ProxyIdentity | undefined {
    return this.#read('leaf', text => {
      const { certPem, keyPem } = SavedLeaf.parse(JSON.parse(text))
      return identityOf(certPem, createPrivateKey(keyPem))
    })
  }

  #path(what: string): string {
    return join(this.#dir, `${this.#stem}.${what}.json`)
  }

  #write(what: string, text: string): void {
    const path = this.#path(what)
    try {
      // Several processes may write at a time: workers, or a successor and the one it replaces.
      const passing = `${path}.${process.pid}.new`
      writeFileSync(passing, text, { mode: 0o600 })
      chmodSync(passing, 0o600)
      renameSync(passing, path)
    } catch (error) {
      this.#logger.warn(
        { what, error: messageOf(error) },
        'cannot write to the cache directory; a restart without the agent would not serve',
      )
    }
  }

  #read<T>(what: string, parse: (text: string) => T | undefined): T | undefined {
    try {
      return parse(readFileSync(this.#path(what), 'utf8'))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.#logger.warn({ what }, 'the cache cannot be read; it is ignored')
      return undefined
    }
  }
}
