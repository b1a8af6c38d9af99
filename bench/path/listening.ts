/** Waits until a program that was started takes connections; one that does not is ended, and its own words say why. */
import { connect } from 'node:net'
import type { Running } from '../../test/support/processes.ts'

const timeoutMs = 15_000

export async function listening(running: Running, port: number): Promise<void> {
  const end = Date.now() + timeoutMs
  while (!(await accepts(port))) {
    if (running.child.exitCode === null && Date.now() < end) {
      await new Promise(resolve => setTimeout(resolve, 20))
      continue
    }
    await running.stop()
    throw new Error(`${running.child.spawnargs.join(' ')} does not listen on port ${port}: ${running.log().slice(-2000)}`)
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
