/** When the frames of a session leave: those of a turn together, those of more turns where several are under way, and nothing late where not. */
import { Duplex } from 'node:stream'
import t from 'tap'
import { frame, headerBytes } from '../../../src/proxy/mux/frames.ts'
import { defaultMuxLimits } from '../../../src/proxy/mux/limits.ts'
import { Sender } from '../../../src/proxy/mux/sender.ts'

const turn = () => new Promise<void>(resolve => setImmediate(resolve))

/** A sender, and how many frames each of its writes had. */
function scene() {
  const writes: number[] = []
  const socket = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      writes.push(chunk.length / headerBytes)
      done()
    },
  })
  const sender = new Sender(socket, defaultMuxLimits, () => undefined)
  return { writes, send: (frames: number) => Array.from({ length: frames }, (_, i) => sender.control(frame.window, 0, i, 1)) }
}

void t.test('one frame at a time leaves at the end of its turn', async t => {
  const { writes, send } = scene()
  for (let i = 1; i <= 50; i += 1) {
    send(1)
    await turn()
    t.equal(writes.length, i)
  }
})

void t.test('where several leave together, they wait as long as each turn brings more, for four turns at most', async t => {
  const { writes, send } = scene()
  send(3)
  await turn()
  t.same(writes, [3], 'the first of them wait for nothing')
  send(3)
  await turn()
  t.same(writes, [3, 3], 'nor before that is usual')
  send(2)
  await turn()
  send(1)
  await turn()
  await turn()
  t.same(writes, [3, 3, 3])
  send(2)
  await turn()
  t.equal(writes.length, 3)
  await turn()
  t.same(writes, [3, 3, 3, 2], 'a turn brought nothing')
  for (let i = 0; i < 5; i += 1) {
    send(1)
    await turn()
  }
  t.same(writes, [3, 3, 3, 2, 5])
})

void t.test('whoever is alone again soon waits no more', async t => {
  const { writes, send } = scene()
  for (let i = 0; i < 20; i += 1) {
    send(8)
    for (let k = 0; k < 3; k += 1) await turn()
  }
  for (let i = 0; i < 30; i += 1) {
    send(1)
    for (let k = 0; k < 2; k += 1) await turn()
  }
  const before = writes.length
  send(1)
  await turn()
  t.equal(writes.length, before + 1)
})
