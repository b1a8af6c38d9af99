/**
 * What every engine refuses before it looks at its data, so that a transaction that one of them takes, the other takes too. The
 * rules are the weaker engine's (etcd): sizes of `storeLimits`, and no key that is put twice, or put and deleted, in one transaction.
 */
import { MeshError } from '../../lib/errors.ts'
import { storeLimits, type Txn } from './store.ts'

/** Throws `too-large` for a transaction beyond the limits and `bad-request` for one that contradicts itself. */
export function checkTxn(txn: Txn): void {
  const compares = txn.compare ?? []
  if (txn.ops.length > storeLimits.maxOps || compares.length > storeLimits.maxOps) {
    throw new MeshError(
      'too-large',
      `transaction has ${Math.max(txn.ops.length, compares.length)} operations; split it into parts of at most ${storeLimits.maxOps}`,
    )
  }
  let bytes = 0
  for (const { key } of compares) bytes += checkKey(key)
  for (const op of txn.ops) {
    if (op.op === 'delete-prefix') bytes += checkPrefix(op.prefix)
    else bytes += checkKey(op.key)
    if (op.op !== 'put') continue
    bytes += op.value.byteLength
    if (txn.early && op.lease !== undefined) throw new MeshError('bad-request', 'an early write takes no lease; write it as any other')
  }
  if (bytes > storeLimits.maxTxnBytes) {
    throw new MeshError('too-large', `transaction has ${bytes} bytes; split it into parts of at most ${storeLimits.maxTxnBytes}`)
  }
  checkOverlap(txn)
}

/** The length of a key in bytes; throws when the store cannot hold it. */
function checkKey(key: string): number {
  if (key === '') throw new MeshError('bad-request', 'a key is empty; name what is to be stored')
  return checkPrefix(key)
}

function checkPrefix(prefix: string): number {
  const bytes = Buffer.byteLength(prefix)
  if (bytes > storeLimits.maxKeyBytes) {
    throw new MeshError('too-large', `a key has ${bytes} bytes; use a name of at most ${storeLimits.maxKeyBytes} bytes in all`)
  }
  return bytes
}

function checkOverlap(txn: Txn): void {
  const puts = new Set<string>()
  for (const op of txn.ops) {
    if (op.op !== 'put') continue
    if (puts.has(op.key)) throw twice(op.key)
    puts.add(op.key)
  }
  if (puts.size === 0) return
  for (const op of txn.ops) {
    if (op.op === 'delete' && puts.has(op.key)) throw twice(op.key)
    if (op.op !== 'delete-prefix') continue
    for (const key of puts) if (key.startsWith(op.prefix)) throw twice(key)
  }
}

function twice(key: string): MeshError {
  return new MeshError('bad-request', `transaction changes key ${JSON.stringify(key)} twice; use two transactions`)
}
