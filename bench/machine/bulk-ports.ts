/** More ports at once than a test's block of them has, from below those: nobody listens on them at this moment. */
import { isFree } from '../../test/support/free-ports.ts'

const range = { first: 10_000, last: 19_999 } as const

export async function bulkPorts(count: number): Promise<number[]> {
  const found: number[] = []
  for (let port = range.first; port <= range.last && found.length < count; port++) if (await isFree(port)) found.push(port)
  if (found.length < count) throw new Error(`no ${count} free ports from ${range.first} to ${range.last}`)
  return found
}
