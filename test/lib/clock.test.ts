// The system's clock: a timer that can be cancelled, and one too far away for Node.
import t from 'tap'
import { systemClock } from '../../src/lib/clock.ts'

t.test('a timer runs once, and a cancelled one never', async t => {
  const ran: string[] = []
  systemClock.after(1, () => ran.push('cancelled')).cancel()
  // A distance that setTimeout would turn into 1 ms.
  const far = systemClock.after(2 ** 40, () => ran.push('far'))
  await new Promise<void>(resolve => {
    systemClock.after(5, () => {
      ran.push('ran')
      resolve()
    })
    // Timers do not keep the process alive; this one does, for the test.
    setTimeout(() => {}, 50)
  })
  far.cancel()
  t.same(ran, ['ran'])
})

t.test('the monotonic clock does not go back', t => {
  const before = systemClock.monotonicMs()
  t.ok(systemClock.monotonicMs() >= before)
  t.ok(Math.abs(systemClock.nowMs() - Date.now()) < 1000)
  t.end()
})
