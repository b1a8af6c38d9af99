// A sidecar that systemd started for a socket: it takes the socket that it was passed, and a caller who came before it is served.
import { spawn } from 'node:child_process'
import { connect, createServer, type AddressInfo } from 'node:net'
import t from 'tap'
import { handleOf } from '../../src/proxy/listening-sockets.ts'
import { freePorts } from '../support/free-ports.ts'
import { call, cliPath, ClusterProcess, until, within } from '../support/processes.ts'
import { registerWeb } from '../support/two-clusters.ts'

t.test('sockets of systemd are used', { skip: process.platform === 'win32' }, async t => {
  const east = await ClusterProcess.start('east')
  t.teardown(() => east.stop())
  const [admin] = (await freePorts(1)) as [number]
  // Here it is the test that listens, as systemd would; it never accepts.
  const waiting = createServer({ pauseOnConnect: true })
  await new Promise<void>(resolve => waiting.listen(0, '127.0.0.1', resolve))
  const { port } = waiting.address() as AddressInfo
  const upstream = { DestinationName: 'web', LocalBindPort: port, LocalBindAddress: '127.0.0.1' }
  await east.api('PUT', '/v1/config', { Kind: 'service-defaults', Name: 'web', Protocol: 'http' })
  await registerWeb(east, [upstream])
  const args = [cliPath, 'sidecar', '--for', 'web', '--admin', `127.0.0.1:${admin}`]
  const child = spawn('/bin/sh', ['-c', 'LISTEN_PID=$$ exec "$@"', 'sh', process.execPath, ...args], {
    stdio: ['ignore', 'ignore', 'ignore', handleOf(waiting)!.fd],
    env: { ...process.env, ISTHMUS_HTTP_ADDR: `127.0.0.1:${east.ports.http}`, LISTEN_FDS: '1', LISTEN_FDNAMES: 'upstream web' },
  })
  const ended = new Promise(resolve => child.once('exit', resolve))
  t.teardown(async () => {
    child.kill('SIGTERM')
    await ended
  })
  // Ours goes: from here on whoever connects waits in the queue of the one that was passed.
  waiting.close()
  const early = connect(port, '127.0.0.1')
  t.teardown(() => early.destroy())
  early.on('error', () => {})
  const answer = new Promise<string>(resolve => early.once('data', chunk => resolve(chunk.toString())))
  early.write('GET / HTTP/1.1\r\nhost: web\r\n\r\n')
  await until('it is ready', async () => (await call(admin, '/ready')).status === 200)
  t.match(await within('whoever came early is answered', answer), /^HTTP\/1\.1 503 /, 'nobody is behind it, but it answered')
})
