/**
 * The child process of the durability tests: opens the store of argv[2], says `ready`, and writes keys with argv[3] writers, each
 * acknowledged key a line `<key> <ms it took>`; after argv[4] rounds it ends, or never. With argv[5] `early` it writes early, and what
 * its watch sees is a line `shown <revision>`.
 */
import { writeSync } from 'node:fs'
import { openEmbeddedStore } from '../../../src/agent/store/embedded.ts'
import { silentLogger } from '../../../src/lib/log.ts'

const [dir, writers, rounds] = [process.argv[2]!, Number(process.argv[3]), Number(process.argv[4])]
const early = process.argv[5] === 'early'
const store = await openEmbeddedStore({ dir, logger: silentLogger() })
writeSync(1, 'ready\n')
if (early) {
  store.watch('', store.revision, {
    onBatch: ({ revision }) => void writeSync(1, `shown ${revision}\n`),
    onCompacted: () => process.exit(1),
  })
}
await Promise.all(
  Array.from({ length: writers }, async (_, writer) => {
    for (let round = 0; round < rounds; round++) {
      const key = `k/${writer}/${round}`
      const start = performance.now()
      await store.txn({ ops: [{ op: 'put', key, value: Buffer.from(key.repeat(10)) }], early })
      // Synchronously, so that a line which is out was acknowledged before any kill.
      writeSync(1, `${key} ${(performance.now() - start).toFixed(1)}\n`)
    }
  }),
)
await store.close()
