/**
 * A look at LMDB's file before LMDB maps it into memory: what is no store, or lacks its end, would end the process with a signal and
 * without a word. The first two pages are LMDB's meta pages; the newer of them tells how long the file must be.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

/** Where the fields of a meta page lie, after a page header of 24 bytes; little-endian. */
const at = { magic: 24, pageSize: 48, lastPage: 144, transaction: 152, end: 160 } as const
const magic = 0xbeefc0de
/** LMDB need not write pages that were taken and given back within one transaction; wrongly refusing is worse than missing a little. */
const slackBytes = 64 * 1024

/** Throws what is wrong. A file that is missing or empty is a store to be made. */
export function checkStoreFile(path: string): void {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  try {
    const { size } = fstatSync(file)
    if (size === 0) return
    const first = metaAt(file, 0)
    const second = first && metaAt(file, first.pageSize)
    if (!first || !second) throw new Error('data.mdb is no store or is damaged; restore it from a copy')
    const newer = first.transaction > second.transaction ? first : second
    const expected = (newer.lastPage + 1) * first.pageSize
    if (size < expected - Math.max(slackBytes, expected / 8)) {
      throw new Error(`data.mdb is cut short, it has ${size} of ${expected} bytes; restore it from a copy`)
    }
  } finally {
    closeSync(file)
  }
}

function metaAt(file: number, offset: number): { pageSize: number; lastPage: number; transaction: bigint } | undefined {
  const page = Buffer.alloc(at.end)
  if (readSync(file, page, 0, at.end, offset) < at.end || page.readUInt32LE(at.magic) !== magic) return undefined
  return {
    pageSize: page.readUInt32LE(at.pageSize),
    lastPage: Number(page.readBigUInt64LE(at.lastPage)),
    transaction: page.readBigUInt64LE(at.transaction),
  }
}
