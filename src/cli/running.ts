/** What commands that stay share: they run until a signal asks them to end, then end in order; a second signal ends them at once. */

export interface Staying {
  /** Ends gracefully. */
  stop(): Promise<void>
}

export async function untilSignal(start: () => Promise<Staying>): Promise<void> {
  // Asked for before the start, so that a signal during it is not lost.
  const asked = new Promise<void>(resolve => {
    const signals = ['SIGINT', 'SIGTERM'] as const
    let first = true
    for (const signal of signals) {
      process.on(signal, () => {
        if (!first) process.exit(1)
        first = false
        resolve()
      })
    }
  })
  // Doors and timers of the parts may be unref'ed; this keeps the process.
  const awake = setInterval(() => undefined, 2 ** 30)
  try {
    const staying = await start()
    await asked
    await staying.stop()
  } finally {
    clearInterval(awake)
  }
}
