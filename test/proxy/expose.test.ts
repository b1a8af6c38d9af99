/** Exposed paths: exactly one path of the app, without TLS, and nothing else of it. */
import { createServer, type IncomingMessage } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import { Expose } from '../../src/proxy/expose.ts'
import { freePorts } from '../support/free-ports.ts'
import { call, sidecarSelf, startHttpApp, until } from '../support/proxy-scene.ts'

async function start(t: Test, appPort: number, path = '/health') {
  const expose = new Expose(silentLogger())
  t.teardown(() => expose.close())
  const [listenerPort] = (await freePorts(1)) as [number]
  const self = sidecarSelf('west', 'api', 'http', appPort, { expose: [{ listenerPort, path, localPathPort: appPort, protocol: 'http' }] })
  await expose.update(self)
  return { expose, self, listenerPort }
}

t.test('the exact path is served, with any query; everything else is 404 and does not reach the app', async t => {
  const app = await startHttpApp()
  t.teardown(() => app.close())
  const { listenerPort } = await start(t, app.port)
  const forged = { 'x-forwarded-client-cert': 'By=x;URI=spiffe://forged' }
  t.strictSame((await call(listenerPort, '/health?deep=1', { headers: forged })).body, 'api GET /health?deep=1')
  t.equal(app.seen[0]!.headers['x-forwarded-client-cert'], undefined)
  const others = [
    '/',
    '/health/',
    '/healthy',
    '/Health',
    '/admin',
    '//health',
    '/x/../health',
    '/%68ealth',
    '/health;v=1',
    '/health%3fx',
    'http://x/health',
  ]
  const answers = await Promise.all(others.map(path => call(listenerPort, path)))
  t.strictSame(
    answers.map(answer => answer.status),
    others.map(() => 404),
  )
  t.equal(app.seen.length, 1)
})

t.test('a websocket passes on the exact path only', async t => {
  const app = await startHttpApp()
  t.teardown(() => app.close())
  const { listenerPort } = await start(t, app.port)
  const upgrade = (path: string) =>
    new Promise<string>(resolve => {
      let heard = ''
      const socket = connect(listenerPort, '127.0.0.1', () => {
        socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n`)
      })
      socket.on('data', chunk => {
        heard += chunk.toString()
        if (heard.includes('\r\n\r\n') && !heard.includes('ping') && heard.includes('101')) socket.write('ping')
        if (heard.endsWith('ping')) socket.destroy()
      })
      socket.on('error', () => {})
      socket.on('close', () => resolve(heard))
    })
  t.match(await upgrade('/health'), /^HTTP\/1\.1 101 [\s\S]*ping$/)
  t.match(await upgrade('/other'), /^HTTP\/1\.1 404 /)
})

t.test('the app sees a client that goes away, and a client sees an app that is gone', async t => {
  let aborted = 0
  const app = createServer((request: IncomingMessage, response) => {
    response.on('close', () => {
      if (!response.writableFinished) aborted += 1
    })
    request.resume()
  })
  await new Promise<void>(resolve => app.listen(0, '127.0.0.1', resolve))
  const { listenerPort } = await start(t, (app.address() as AddressInfo).port)
  const client = connect(listenerPort, '127.0.0.1', () => client.write('GET /health HTTP/1.1\r\nhost: x\r\n\r\n'))
  await until(() => client.bytesWritten > 0)
  await new Promise(resolve => setTimeout(resolve, 100))
  client.destroy()
  await until(() => aborted === 1)
  await new Promise(resolve => {
    app.close(resolve)
    app.closeAllConnections()
  })
  t.equal((await call(listenerPort, '/health')).status, 503)
})

t.test('a path that is no longer exposed loses its listener', async t => {
  const app = await startHttpApp()
  t.teardown(() => app.close())
  const { expose, self, listenerPort } = await start(t, app.port)
  t.equal((await call(listenerPort, '/health')).status, 200)
  await expose.update({ ...self, expose: [] })
  await t.rejects(call(listenerPort, '/health'), { code: 'ECONNREFUSED' })
})
