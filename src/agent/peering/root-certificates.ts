/**
 * What a certificate of a peer is, read once however often it is said: every token and every stream repeats its roots, and to read one
 * is dear. The text is the key, so what is remembered is always of that very certificate.
 */
import { X509Certificate } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { messageOf } from '../../lib/errors.ts'

export type RootCertificate = { ok: true; ca: boolean } | { ok: false; message: string }

const maxBytes = 1024 * 1024
const known = new LRUCache<string, RootCertificate>({ maxSize: maxBytes, sizeCalculation: (_read, pem) => pem.length + 1 })

export function readRootCertificate(pem: string): RootCertificate {
  const before = known.get(pem)
  if (before) return before
  const read = readAnew(pem)
  known.set(pem, read)
  return read
}

function readAnew(pem: string): RootCertificate {
  try {
    return { ok: true, ca: new X509Certificate(pem).ca }
  } catch (error) {
    return { ok: false, message: messageOf(error) }
  }
}
