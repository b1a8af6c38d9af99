// How tests wait for what others do in their own time. Every wait has an end, and what fails then names what was awaited.

/** Tries until `probe` answers something truthy; fails with `what` and the last error after `timeoutMs`. */
export async function until<T>(what: string, probe: () => Promise<T | undefined | false>, timeoutMs = 15_000, everyMs = 25): Promise<T> {
  const end = Date.now() + timeoutMs
  let last: unknown
  for (;;) {
    try {
      const found = await probe()
      if (found !== undefined && found !== false) return found
    } catch (error) {
      last = error
    }
    if (Date.now() > end) throw new Error(`${what}: not within ${timeoutMs} ms${last instanceof Error ? ` (${last.message})` : ''}`)
    await new Promise(resolve => setTimeout(resolve, everyMs))
  }
}

/** Looks every few ms until a condition holds, which must not throw; answers how long that took. */
export async function eventually(holds: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<number> {
  const began = performance.now()
  while (!(await holds())) {
    if (performance.now() - began > timeoutMs) throw new Error(`not within ${timeoutMs} ms: ${holds.toString()}`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  return performance.now() - began
}

/** What comes by itself, but must not be waited for without an end. */
export async function within<T>(what: string, promise: Promise<T>, timeoutMs = 15_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
