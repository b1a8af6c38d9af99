/** The thread that arrivals.ts starts: sleeps until each arrival and posts when it was due. */
import { parentPort, workerData } from 'node:worker_threads'
import { exponentialGapMs, nowMs, type ArrivalsWish } from './arrivals.ts'

const { rate, durationMs } = workerData as ArrivalsWish
const nobody = new Int32Array(new SharedArrayBuffer(4))
const startMs = nowMs()
for (
  let nextMs = startMs + exponentialGapMs(rate, Math.random());
  nextMs <= startMs + durationMs;
  nextMs += exponentialGapMs(rate, Math.random())
) {
  const waitMs = nextMs - nowMs()
  // Nobody ever wakes it: this is a sleep in fractions of a millisecond.
  if (waitMs > 0) Atomics.wait(nobody, 0, 0, waitMs)
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port of a thread, not a window
  parentPort!.postMessage(nextMs)
}
