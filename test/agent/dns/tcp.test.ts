// The limits of time over TCP, with a clock that the test moves.
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { createTcpDoor, tcpLimits } from '../../../src/agent/dns/tcp.ts'
import { FakeClock } from '../../support/fake-clock.ts'

async function open(t: Test) {
  const clock = new FakeClock()
  const counts: number[] = []
  const door = createTcpDoor({ clock, respond: message => message, onConnections: count => counts.push(count) })
  t.teardown(() => door.close())
  await new Promise<void>(resolve => door.server.listen(0, '127.0.0.1', resolve))
  const { port } = door.server.address() as { port: number }
  const socket: Socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  while (clock.timers === 0) await new Promise(resolve => setImmediate(resolve))
  return { clock, socket, counts }
}

void t.test('an idle connection is closed, and counted out', async t => {
  const { clock, socket, counts } = await open(t)
  const closed = once(socket, 'close')
  await clock.advance(tcpLimits.messageTimeoutMs - 1)
  t.equal(socket.destroyed, false)
  await clock.advance(1)
  await closed
  while (counts.length < 2) await new Promise(resolve => setImmediate(resolve))
  t.same(counts, [1, 0])
  t.equal(clock.timers, 0)
})

void t.test('a message that trickles in does not keep a connection open, a whole one does', async t => {
  const { clock, socket } = await open(t)
  const closed = once(socket, 'close')
  await clock.advance(5000)
  socket.write(Buffer.from([0, 2, 7, 7]))
  await once(socket, 'data')
  await clock.advance(5000)
  t.equal(socket.destroyed, false, 'answered after 5 s, alive at 10 s')
  socket.write(Buffer.from([0, 2, 7]))
  await new Promise(resolve => setTimeout(resolve, 20))
  await clock.advance(3000)
  await closed
  t.pass('closed 8 s after the last answer')
})
