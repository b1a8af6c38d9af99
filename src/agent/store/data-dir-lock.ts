/**
 * The lock of a data directory: one process at a time. It is a file that names its holder, created exclusively; it needs no clean
 * exit, because a holder that is dead, or whose pid now belongs to a younger process, holds nothing. Pids of another container or
 * machine say nothing; there the holder's heartbeat (the file's date) decides. Where the start of a process cannot be read (not
 * Linux), a pid that is alive holds the lock: refusing wrongly is mended by a person, sharing wrongly is not.
 */
import { randomBytes } from 'node:crypto'
import { linkSync, readFileSync, readlinkSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { MeshError } from '../../lib/errors.ts'

export interface DataDirLock {
  release(): void
}

interface Holder {
  pid: number
  /** Where that pid means something: boot and pid namespace; '' where there is no /proc. */
  realm: string
  /** Which process of that pid: its start tick; '' where there is no /proc. */
  start: string
  /** Wall clock, ms. A lock from before the last boot is nobody's. */
  takenAtMs: number
  /** Tells two locks of one process apart. */
  nonce: string
}

const attempts = 5
const heartbeatMs = 2000
/** A holder in another realm whose heartbeat is older than this is dead. */
const silenceMs = 10_000

/** Locks `dir`, which must exist; throws `conflict` while another process, or this one, holds it. */
export function lockDataDir(dir: string): DataDirLock {
  const path = join(dir, 'isthmus.lock')
  const mine: Holder = {
    pid: process.pid,
    realm: realm(),
    start: startOf('self'),
    takenAtMs: Date.now(),
    nonce: randomBytes(8).toString('hex'),
  }
  const text = JSON.stringify(mine)
  for (let attempt = 0; attempt < attempts; attempt++) {
    try {
      writeFileSync(path, text, { flag: 'wx', mode: 0o600 })
      return keep(path, text)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const found = read(path)
    if (found === undefined) continue
    const holder = parse(found)
    if (holder && isAlive(holder, path)) throw held(dir, path, holder)
    takeAway(path, found)
  }
  throw held(dir, path, undefined)
}

function keep(path: string, text: string): DataDirLock {
  const heartbeat = setInterval(() => {
    try {
      const now = new Date()
      if (read(path) === text) utimesSync(path, now, now)
    } catch {
      // Unwritable for the moment; only holders in another realm look at the date.
    }
  }, heartbeatMs)
  heartbeat.unref()
  return {
    release() {
      clearInterval(heartbeat)
      if (read(path) === text) rmSync(path, { force: true })
    },
  }
}

/**
 * Removes a stale lock. Two starters may both have judged it stale, and one may already hold a fresh one: so it is renamed, looked
 * at again, and put back when it is not the one that was judged.
 */
function takeAway(path: string, judged: string): void {
  const aside = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`
  try {
    renameSync(path, aside)
  } catch {
    return
  }
  try {
    if (read(aside) !== judged) linkSync(aside, path)
  } finally {
    rmSync(aside, { force: true })
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

/** Undefined for a file that a crash cut short: its writer died between creating and filling it. */
function parse(text: string): Holder | undefined {
  try {
    const holder = JSON.parse(text) as Holder
    return Number.isInteger(holder.pid) && holder.pid > 0 ? holder : undefined
  } catch {
    return undefined
  }
}

function isAlive(holder: Holder, path: string): boolean {
  if (holder.realm !== realm()) return Date.now() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) < silenceMs
  const bootedAtMs = Date.now() - os.uptime() * 1000
  if (holder.realm === '' && holder.takenAtMs < bootedAtMs - 60_000) return false
  try {
    process.kill(holder.pid, 0)
  } catch (error) {
    // EPERM: it lives, and is someone else's.
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false
  }
  return holder.start === startOf(holder.pid)
}

/** Boot and pid namespace: two processes that share them see the same pids. */
function realm(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()}/${readlinkSync('/proc/self/ns/pid')}`
  } catch {
    return ''
  }
}

/** The start of a process in ticks since boot: what a reused pid cannot share. */
function startOf(pid: number | 'self'): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The second field is the command in parentheses, which may hold spaces; field 22 is the start.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

function held(dir: string, path: string, holder: Holder | undefined): MeshError {
  const who = holder === undefined ? 'another process' : holder.pid === process.pid ? 'this process' : `process ${holder.pid}`
  return new MeshError(
    'conflict',
    `data directory ${dir} is in use by ${who}; stop it or choose another data_dir (if it is no isthmus agent, remove ${path})`,
  )
}
