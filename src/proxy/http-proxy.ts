/**
 * http-proxy, loaded so that it neither warns users nor depends on what Node has deprecated (DEP0060): 1.18, its last version, takes
 * `util._extend` when it is loaded, which is `Object.assign` by another name. Node's own is back in place before anything else runs.
 */
import { createRequire } from 'node:module'
import util from 'node:util'
import type HttpProxy from 'http-proxy'

function load(): typeof HttpProxy {
  const own = Object.getOwnPropertyDescriptor(util, '_extend')
  Object.defineProperty(util, '_extend', { value: Object.assign, configurable: true, enumerable: true, writable: true })
  try {
    return createRequire(import.meta.url)('http-proxy') as typeof HttpProxy
  } finally {
    if (own) Object.defineProperty(util, '_extend', own)
    else Reflect.deleteProperty(util, '_extend')
  }
}

let loaded: typeof HttpProxy | undefined

/** Few proxies expose a path: those that do not are spared it. */
export const httpProxy = (): typeof HttpProxy => (loaded ??= load())
