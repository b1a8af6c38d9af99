/** A way to a port of this machine which a test may make long, or silent. */
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'

export interface Way {
  server: Server
  port: number
  /** From now on nothing passes: what is open stays open, and so does what comes. */
  silence(): void
}

/** What comes takes `delayMs` longer. */
export async function startWay(t: Pick<Test, 'teardown'>, to: number, delayMs = 0): Promise<Way> {
  const sockets = new Set<Socket>()
  let silent = false
  const later = (pass: () => void) => void (delayMs === 0 ? pass() : setTimeout(pass, delayMs))
  const server = createServer({ allowHalfOpen: true }, near => {
    sockets.add(near)
    near.on('error', () => {})
    if (silent) return void near.pause()
    const far = connect({ port: to, host: '127.0.0.1', allowHalfOpen: true })
    sockets.add(far)
    far.on('error', () => near.destroy())
    for (const [from, onto] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on('data', (chunk: Buffer) => silent || later(() => onto.write(chunk)))
      from.on('end', () => silent || later(() => onto.end()))
      from.on('close', () => silent || later(() => onto.destroy()))
    }
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { server, port: (server.address() as AddressInfo).port, silence: () => (silent = true) }
}
