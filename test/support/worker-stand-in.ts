// A worker for supervisor.test.ts: claims one socket, binds it where it is to, and never says that it has it open.
import { createServer } from 'node:net'
import { handleOf } from '../../src/proxy/listening-sockets.ts'

const say = (message: object, handle?: unknown) => process.send!(message, handle as never)

process.on('message', (message: object, handle: unknown) => {
  if ('end' in message) process.exit(0)
  if (!('granted' in message)) return
  // Whoever is given it has not opened it yet.
  if (handle !== undefined) say({ open: [] })
  else {
    const server = createServer().listen(0, '127.0.0.1', () => say({ bound: 'x' }, handleOf(server)))
  }
  say({ ready: true })
})
say({ claim: 'x' })
