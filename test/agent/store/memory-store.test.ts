/** The store of the simulations is a store: it passes the suite of every engine, and what a killed one had written is there again. */
import t from 'tap'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { FakeClock, settle } from '../../support/fake-clock.ts'
import { storeCompliance } from './compliance.ts'
import { MemoryDisk, MemoryStore } from './memory-store.ts'

const logger = silentLogger()

storeCompliance('simulated', async () => {
  const store = new MemoryStore({ disk: new MemoryDisk(), clock: systemClock, logger })
  return { store, close: () => store.close() }
})

void t.test('of the writes under way when it is killed a first part is on its disk, and none is answered', async t => {
  const clock = new FakeClock()
  const disk = new MemoryDisk()
  const store = new MemoryStore({ disk, clock, logger, delayMs: () => 10 })
  const answered: string[] = []
  for (const key of ['a', 'b', 'c']) void store.txn({ ops: [{ op: 'put', key, value: Buffer.from(key) }] }).then(() => answered.push(key))
  await settle()
  store.die(2)
  await clock.advance(100)
  t.same(answered, [])
  const again = new MemoryStore({ disk, clock, logger })
  t.same(
    (await again.list('')).entries.map(({ key, modRevision }) => [key, modRevision]),
    [
      ['a', 2],
      ['b', 3],
    ],
  )
})
