/**
 * What the kernel counts for a process and everything below it: CPU time and resident memory. All of it is read from /proc, so this
 * is for Linux; nothing here changes a process.
 */
import { readdirSync, readFileSync } from 'node:fs'

/** Of /proc/PID/stat; every Linux that Node runs on has it at 100 a second. */
const ticksPerSecond = 100

export function hasProc(): boolean {
  try {
    return statOf(process.pid) !== undefined
  } catch {
    return false
  }
}

/** The process and its descendants: nginx's work is done by a child. */
export function tree(pid: number): number[] {
  const parents = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = statOf(Number(name))
    if (stat) parents.set(stat.parent, [...(parents.get(stat.parent) ?? []), Number(name)])
  }
  const found = [pid]
  for (let i = 0; i < found.length; i++) found.push(...(parents.get(found[i]!) ?? []))
  return found
}

/** User and system time, of all threads, in microseconds, of a process and its descendants. */
export function cpuMicros(pid: number): number {
  return tree(pid).reduce((sum, each) => sum + (scheduledMicros(each) ?? ((statOf(each)?.ticks ?? 0) * 1e6) / ticksPerSecond), 0)
}

/** Resident memory of a process and its descendants. */
export function residentBytes(pid: number): number {
  return tree(pid).reduce((sum, each) => {
    const status = read(`/proc/${each}/status`)
    return sum + Number(/^VmRSS:\s+(\d+) kB$/m.exec(status ?? '')?.[1] ?? 0) * 1024
  }, 0)
}

/**
 * The same time as the ticks of /proc/PID/stat, in nanoseconds instead of hundredths of a second: at 200 requests a second a round
 * is a few ticks long. Threads that have ended are missing, but no proxy here ends any.
 */
function scheduledMicros(pid: number): number | undefined {
  let sum = 0
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const line = read(`/proc/${pid}/task/${thread}/schedstat`)
      if (line === undefined) return undefined
      sum += Number(line.slice(0, line.indexOf(' '))) / 1000
    }
  } catch {
    return undefined
  }
  return sum
}

function statOf(pid: number): { parent: number; ticks: number } | undefined {
  const line = read(`/proc/${pid}/stat`)
  if (line === undefined) return undefined
  // The second field is a name in parentheses that may itself hold spaces and parentheses; utime and stime are fields 14 and 15.
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ')
  return { parent: Number(fields[1]), ticks: Number(fields[11]) + Number(fields[12]) }
}

/** Undefined for a process that is gone. */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
