// Apps that answer in the middle of a request, and may end their stream at once: the proxy lives on. Here it is a process of its own, with a
// limit on what it may take: over node:http2 it once filled all memory.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import * as http2 from 'node:http2'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { Channels } from '../../../src/proxy/http2/channels.ts'
import { serveHttp2 } from '../../../src/proxy/http2/connection.ts'
import { defaultHttp2Limits, upstreamChannelLimits } from '../../../src/proxy/http2/limits.ts'
import { endpointAt } from '../../support/proxy-scene.ts'
import { seeded } from '../../support/seeded.ts'

const limitKib = 4_000_000
const rounds = process.env['ISTHMUS_DEEP'] === '1' ? 200 : 25
const atOnce = 20

async function listening(server: http2.Http2Server | Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

/** Answers at any moment of the body, and sometimes ends its stream without an error right behind it. */
function hasty(random: () => number): http2.Http2Server {
  const app = http2.createServer({ settings: { initialWindowSize: 20_000 } })
  app.on('stream', stream => {
    stream.on('error', () => {})
    const at = Math.floor(random() * 70_000)
    let heard = 0
    const answer = () => {
      if (stream.headersSent || stream.destroyed || stream.closed) return
      stream.respond({ ':status': 503 }, { endStream: random() < 0.5 })
      if (!stream.writableEnded) stream.end('no')
      if (random() < 0.5) stream.close(http2.constants.NGHTTP2_NO_ERROR)
    }
    stream.on('data', (chunk: Buffer) => {
      heard += chunk.length
      if (heard >= at) answer()
    })
    stream.on('end', answer)
  })
  return app
}

async function load(): Promise<number> {
  const random = seeded(1)
  const appPort = await listening(hasty(random))
  const endpoint = endpointAt(appPort)
  const dial = async () => {
    const stream = connect({ port: appPort, host: '127.0.0.1' })
    await once(stream, 'connect')
    return { ok: true as const, stream, endpoint }
  }
  const channels = new Channels(
    { pick: () => endpoint, doubts: () => false, dial, lost: () => {}, key: () => '', spread: () => 4 },
    upstreamChannelLimits,
    defaultHttp2Limits,
  )
  const opened = { refused: undefined, timeoutMs: undefined, channels, stillAllowed: () => true, finished: () => {} }
  const door = { channels, threw: () => {}, flooded: () => {}, open: () => opened }
  const port = await listening(createServer((socket: Socket) => void serveHttp2(socket, door, defaultHttp2Limits)))
  let answers = 0
  const ask = async (session: http2.ClientHttp2Session) => {
    const stream = session.request({ ':method': 'POST', ':path': '/' })
    stream.on('error', () => {})
    stream.on('response', () => (answers += 1))
    stream.resume()
    const closed = new Promise(resolve => stream.once('close', resolve))
    const body = Buffer.alloc([1, 5000, 65_535, 65_536, 300_000][Math.floor(random() * 5)]!)
    for (let at = 0; at < body.length && !stream.destroyed && !stream.closed;) {
      const size = 1 + Math.floor(random() * 30_000)
      if (!stream.write(body.subarray(at, at + size))) await Promise.race([new Promise(resolve => stream.once('drain', resolve)), closed])
      at += size
    }
    stream.end()
    await closed
  }
  for (let round = 0; round < rounds; round += 1) {
    const session = http2.connect(`http://127.0.0.1:${port}`)
    session.on('error', () => {})
    await Promise.all(Array.from({ length: atOnce }, () => ask(session)))
    session.close()
  }
  return answers
}

if (process.env['ISTHMUS_EARLY'] === '1') {
  process.stdout.write(`${await load()}\n`)
  process.exit()
}

t.test('answers in the middle of requests cost the proxy neither its life nor its memory', async t => {
  const command = `ulimit -v ${limitKib}; exec "${process.execPath}" "${fileURLToPath(import.meta.url)}"`
  const child = spawn('sh', ['-c', command], { env: { ...process.env, ISTHMUS_EARLY: '1' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  t.equal(code, 0)
  t.ok(Number(said) > (rounds * atOnce) / 2, `${said.trim()} answers`)
})
