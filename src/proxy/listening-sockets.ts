/**
 * The listening sockets of one proxy, each under the name of what it is for (`public`, `upstream api`, `gateway lan`, `admin`). A socket
 * that was handed over under its name and is at the right address is taken before a new one is bound, so that no connection that waits
 * in its queue is lost; and all of them can be handed on. Once the proxy has stopped accepting, nothing opens one again.
 */
import { randomBytes } from 'node:crypto'
import { chmodSync, lstatSync, renameSync, rmSync } from 'node:fs'
import { isIP, SocketAddress, type AddressInfo, type Server } from 'node:net'
import { dirname, join } from 'node:path'
import { clearSocketFile } from '../lib/socket-file.ts'

/** Where a socket listens; `path` wins. */
export interface Place {
  address: string
  port: number
  path?: string | undefined
  /** Of the socket file. */
  mode?: number | undefined
}

/** Where sockets come from that this process did not bind, and who else has a share in those it did. */
export interface SocketSource {
  /** A socket of that name, as `server.listen` takes it; undefined when this process is to bind one itself. */
  claim(name: string): Promise<unknown>
  /** The one that was to be bound is bound (shared from now on), or could not be. */
  bound?(name: string, server: Server): void
  failed?(name: string): void
  /** What is open now. */
  changed?(open: readonly OpenSocket[]): void
  /** The proxy serves: what nobody claimed is not needed. */
  settled(): void
  /** Other processes accept on the same sockets: their files are not this one's to remove. */
  readonly shared: boolean
  /** Another process serves until this one is ready. */
  readonly succeeds: boolean
}

export interface OpenSocket {
  name: string
  /** Of a unix socket's file. */
  path?: string | undefined
}

interface Held {
  name: string
  /** Its file, while it is surely the one that was made or taken. */
  file: { path: string; ino: number } | undefined
}

export class ListeningSockets {
  readonly #source: SocketSource | undefined
  readonly #held = new Map<Server, Held>()
  #stopped = false
  #handedOver = false

  constructor(source?: SocketSource) {
    this.#source = source
  }

  /** True once nothing is accepted any more. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** True in a process that takes over from another, which serves until then. */
  get succeeds(): boolean {
    return this.#source?.succeeds === true
  }

  /** A server made by `make` that listens at `at`; throws what the system says. */
  async listen<S extends Server>(name: string, at: Place, make: () => S): Promise<S> {
    const claimed = await this.#source?.claim(name)
    if (claimed !== undefined) {
      const server = make()
      if (adopt(server, claimed, at)) return this.#hold(name, server, at)
      server.close()
    }
    try {
      const server = make()
      await bind(server, at)
      this.#source?.bound?.(name, server)
      return this.#hold(name, server, at)
    } catch (error) {
      this.#source?.failed?.(name)
      throw error
    }
  }

  /** Stops accepting on one; connections that are open stay. */
  release(server: Server): void {
    if (server.listening) server.close()
    const held = this.#held.get(server)
    if (!held) return
    this.#held.delete(server)
    const { file } = held
    if (file && !this.#handedOver && this.#source?.shared !== true && inode(file.path) === file.ino) rmSync(file.path, { force: true })
    this.#changed()
  }

  /** No more of them are wanted. The admin door stays, to say so. */
  stop(): void {
    this.#stopped = true
    for (const [server, { name }] of this.#held) if (name !== adminSocket) this.release(server)
  }

  /** Another process has them all now, the admin door too. */
  handOver(): void {
    this.#stopped = this.#handedOver = true
    for (const server of this.#held.keys()) this.release(server)
  }

  settled(): void {
    this.#source?.settled()
  }

  /** The descriptor of each, for another process to inherit. */
  descriptors(): Map<string, number> {
    const found = new Map<string, number>()
    for (const [server, { name }] of this.#held) {
      const fd = handleOf(server)?.fd ?? -1
      if (fd >= 0) found.set(name, fd)
    }
    return found
  }

  #hold<S extends Server>(name: string, server: S, { path }: Place): S {
    const ino = path === undefined ? undefined : inode(path)
    this.#held.set(server, { name, file: path === undefined || ino === undefined ? undefined : { path, ino } })
    this.#changed()
    return server
  }

  #changed(): void {
    this.#source?.changed?.([...this.#held.values()].map(({ name, file }) => ({ name, path: file?.path })))
  }
}

export const adminSocket = 'admin'

/** What Node keeps of a server: there is no public way to the descriptor of a listening socket, nor to give it to another process unaccepted. */
export function handleOf(server: Server): { fd: number } | undefined {
  return (server as unknown as { _handle?: { fd: number } })._handle
}

/** Listens on a socket from elsewhere; false if it is none, or is not at the right place. Nothing was accepted then. */
function adopt(server: Server, claimed: unknown, at: Place): boolean {
  // Told once more, as an event, of a descriptor that is no listening socket.
  server.on('error', () => {})
  try {
    server.listen(claimed)
  } catch {
    return false
  }
  if (!server.listening) return false
  const address = server.address() as AddressInfo | null
  // Of a unix socket Node does not tell the path; its name has to do.
  if (address === null || typeof address === 'string') return at.path !== undefined
  if (at.path !== undefined || (at.port !== 0 && address.port !== at.port)) return false
  const wanted = anyOf(at.address)
  return isIP(wanted) === 0 || canonical(wanted) === canonical(address.address)
}

function canonical(address: string): string {
  return new SocketAddress({ address, family: isIP(address) === 6 ? 'ipv6' : 'ipv4' }).address
}

function anyOf(address: string): string {
  return address === '' ? '0.0.0.0' : address
}

async function bind(server: Server, { address, port, path, mode }: Place): Promise<void> {
  if (path === undefined) return listening(server, { host: anyOf(address), port })
  if (process.platform === 'win32') return listening(server, { path })
  if (!(await clearSocketFile(path))) throw Object.assign(new Error(`another process answers on ${path}`), { code: 'EADDRINUSE' })
  // Bound under another name: the file appears whole, with its mode, and Node, which removes the name it bound when the server closes,
  // does not take it from a process that the socket was handed to.
  const passing = join(dirname(path), `.${randomBytes(4).toString('hex')}`)
  await listening(server, { path: passing })
  if (mode !== undefined) chmodSync(passing, mode)
  renameSync(passing, path)
}

function listening(server: Server, options: { host: string; port: number } | { path: string }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(options, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

function inode(path: string): number | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.ino
}
