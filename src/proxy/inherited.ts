/**
 * Listening sockets that were open before this process was: descriptors 3 and up, as systemd passes them (LISTEN_FDS, LISTEN_FDNAMES,
 * LISTEN_PID) and as one isthmus passes them to its successor. Each is taken once, by name; what nobody has taken when the proxy serves
 * is closed, so that no caller waits in the queue of a socket that nobody serves.
 */
import { closeSync } from 'node:fs'
import type { SocketSource } from './listening-sockets.ts'

type Environment = Record<string, string | undefined>

const firstDescriptor = 3
/** Sockets in one handing over. */
const maxDescriptors = 1024

/** The environment that hands these on; they become descriptors 3 and up in this order. */
export function environmentFor(names: readonly string[]): Record<string, string> {
  return { LISTEN_FDS: String(names.length), LISTEN_FDNAMES: names.map(encodeName).join(':') }
}

/**
 * The descriptors that were passed to this process, by name, taken out of the environment: what it starts later has not got them.
 * A predecessor cannot know our process id beforehand, so without LISTEN_PID they are believed only of a parent that talks to us.
 */
export function takeInherited(env: Environment, pid: number, hasParent: boolean): Map<string, number> {
  const { LISTEN_FDS: count = '', LISTEN_FDNAMES: names = '', LISTEN_PID: meant } = env
  for (const name of ['LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PID']) delete env[name]
  const found = new Map<string, number>()
  if (!/^\d{1,4}$/.test(count) || (meant === undefined ? !hasParent : meant !== String(pid))) return found
  const list = names.split(':')
  for (let i = 0; i < Math.min(Number(count), maxDescriptors); i += 1) {
    const name = decodeName(list[i] ?? '')
    if (found.has(name)) close(firstDescriptor + i)
    else found.set(name, firstDescriptor + i)
  }
  return found
}

export class InheritedSockets implements SocketSource {
  readonly shared = false
  readonly succeeds: boolean
  readonly #descriptors: Map<string, number>

  constructor(descriptors: Map<string, number>, succeeds: boolean) {
    this.#descriptors = descriptors
    this.succeeds = succeeds
  }

  claim(name: string): Promise<{ fd: number } | undefined> {
    const fd = this.#descriptors.get(name)
    this.#descriptors.delete(name)
    return Promise.resolve(fd === undefined ? undefined : { fd })
  }

  settled(): void {
    for (const fd of this.#descriptors.values()) close(fd)
    this.#descriptors.clear()
  }
}

function close(fd: number): void {
  try {
    closeSync(fd)
  } catch {
    // Was none.
  }
}

/** systemd's names hold no colon and nothing but printable ASCII. */
function encodeName(name: string): string {
  return name.replace(/[^ -9;-~]|%/gu, each => encodeURIComponent(each))
}

function decodeName(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
