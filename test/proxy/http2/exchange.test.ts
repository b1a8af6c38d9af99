/** A connection and its exchanges over a socket that is none, by a clock that is moved by hand. */
import type { Socket } from 'node:net'
import t from 'tap'
import { Deadlines } from '../../../src/lib/deadlines.ts'
import { Channels } from '../../../src/proxy/http2/channels.ts'
import { serveHttp2 } from '../../../src/proxy/http2/connection.ts'
import type { Http2Door } from '../../../src/proxy/http2/door.ts'
import { defaultHttp2Limits, upstreamChannelLimits } from '../../../src/proxy/http2/limits.ts'
import { preface } from '../../../src/proxy/http2/wire/frames.ts'
import { FakeClock } from '../../support/fake-clock.ts'
import { HandSocket } from '../../support/hand-socket.ts'
import { until } from '../../support/proxy-scene.ts'
import { endHeaders, endStream, frame, frames, request } from './frames.ts'

const channels = new Channels(
  {
    pick: () => undefined,
    doubts: () => false,
    dial: () => Promise.resolve({ ok: false, failure: { reset: 'remote connection failure' } }),
    lost: () => {},
    key: () => '',
    spread: () => 1,
  },
  upstreamChannelLimits,
  defaultHttp2Limits,
)
const refusing: Http2Door = {
  channels,
  open: () => ({
    refused: { ok: false, status: 404, body: 'nowhere', reason: 'nowhere' },
    timeoutMs: undefined,
    stillAllowed: () => true,
    finished: () => {},
  }),
  threw: error => t.fail(String(error)),
}

t.test('an answer that its client takes slowly is not cut off by the end of its connection', async t => {
  const clock = new FakeClock()
  const socket = Object.assign(new HandSocket(), { alpnProtocol: 'h2', blocked: true })
  const connection = serveHttp2(socket as unknown as Socket, refusing, defaultHttp2Limits, new Deadlines(clock))
  socket.push(Buffer.concat([preface, frame(frames.settings, 0, 0), frame(frames.headers, endStream | endHeaders, 1, request())]))
  await until(() => socket.written.length > 0)
  connection.drain()
  await clock.advance(2 * defaultHttp2Limits.lingerMs)
  t.notOk(socket.destroyed)
  const closed = new Promise(resolve => socket.once('close', resolve))
  socket.unblock()
  await until(() => socket.writableFinished)
  await clock.advance(2 * defaultHttp2Limits.lingerMs)
  await closed
})
