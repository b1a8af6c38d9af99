// A tunnel that is cut while one side's end is still on its way: both sockets are closed all the same, and nothing is left of them.
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { openTunnel } from '../../src/proxy/tunnel.ts'
import { until } from '../support/proxy-scene.ts'

/** A pair of connected sockets: ours, and the one at its far end. */
async function pair(t: Test): Promise<[near: Socket, far: Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const far = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const near = await new Promise<Socket>(resolve => server.once('connection', resolve))
  for (const socket of [near, far]) socket.on('error', () => {})
  t.teardown(() => {
    server.close()
    near.destroy()
    far.destroy()
  })
  return [near, far]
}

t.test('a tunnel that is cut while an end is on its way leaves no socket behind', async t => {
  const [[left], [right]] = [await pair(t), await pair(t)]
  let closed = 0
  for (const side of [left, right]) side.once('close', () => (closed += 1))
  const tunnel = openTunnel(left, right, { idleMs: 60_000 })
  right.end()
  await new Promise<void>(resolve => process.nextTick(resolve))
  t.equal(right.writableEnded && !right.writableFinished, true)
  tunnel.destroy()
  await until(() => closed === 2)
  t.same([left.destroyed, right.destroyed], [true, true])
})
