/** What commands that stay share: they run until a signal asks them to end, then end in order. */

export interface Staying {
  /** Ends gracefully. */
  stop(): Promise<void>
  /** Resolves when something else than a signal asks it to end. */
  left?: Promise<void>
  /** SIGUSR2: puts another process in this one's place. Answers how this one leaves, or undefined when it has to go on. */
  replace?(): Promise<(() => Promise<void>) | undefined>
}

type Leave = () => Promise<void>

/** A second signal ends the process at once. */
export async function untilSignal(start: () => Promise<Staying>, restarts = false): Promise<void> {
  // Asked for before the start, so that a signal during it is not lost.
  const asked = new Promise<undefined>(resolve => {
    const signals = ['SIGINT', 'SIGTERM'] as const
    let first = true
    for (const signal of signals) {
      process.on(signal, () => {
        if (!first) process.exit(1)
        first = false
        resolve(undefined)
      })
    }
  })
  let staying: Staying | undefined
  const replaced = restarts ? onRestart(() => staying) : new Promise<Leave>(() => {})
  // Doors and timers of the parts may be unref'ed; this keeps the process.
  const awake = setInterval(() => undefined, 2 ** 30)
  try {
    staying = await start()
    const leave = await Promise.race([asked, replaced, staying.left?.then(() => undefined) ?? asked])
    const left = leave?.().then(() => 'left' as const)
    if (left === undefined || (await Promise.race([left, asked])) !== 'left') await staying.stop()
  } finally {
    clearInterval(awake)
  }
}

/** Resolves once another process has taken over. What comes while one is being started, or before there is anything to replace, is nothing new. */
function onRestart(staying: () => Staying | undefined): Promise<Leave> {
  return new Promise(resolve => {
    // Windows has no such signal.
    if (process.platform === 'win32') return
    let busy = false
    process.on('SIGUSR2', () => {
      const replacing = busy ? undefined : staying()?.replace?.()
      if (!replacing) return
      busy = true
      void replacing.then(leave => {
        if (leave) resolve(leave)
        else busy = false
      })
    })
  })
}

/** Aborts at the first SIGINT or SIGTERM; `close` leaves signals as they were. */
export function interruption(): { signal: AbortSignal; close: () => void } {
  const controller = new AbortController()
  const abort = () => controller.abort()
  const signals = ['SIGINT', 'SIGTERM'] as const
  for (const each of signals) process.on(each, abort)
  return {
    signal: controller.signal,
    close: () => {
      for (const each of signals) process.off(each, abort)
    },
  }
}
