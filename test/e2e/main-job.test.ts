// The main job, in separate OS processes: app -> sidecar -> mTLS -> the peer's gateway -> sidecar -> app, judged on every request.
import { execFile } from 'node:child_process'
import { Agent } from 'node:http'
import { connect } from 'node:net'
import { promisify } from 'node:util'
import t from 'tap'
import { call, until, within } from '../support/processes.ts'
import { eastName, exchange, startTwoClusters, type Seen } from '../support/two-clusters.ts'

const run = promisify(execFile)

t.test('two clusters, one token, one request across', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())

  await t.test('curl crosses, and the app sees who called', async t => {
    const { stdout } = await run('curl', [
      '-s',
      '-i',
      '--max-time',
      '10',
      '-H',
      'x-forwarded-client-cert: By=forged;URI=spiffe://evil/x',
      `http://127.0.0.1:${scene.apiPort}/hello?x=1`,
    ])
    t.match(stdout, /^HTTP\/1\.1 200 /)
    const seen = JSON.parse(stdout.slice(stdout.indexOf('\r\n\r\n') + 4)) as Seen
    t.equal(seen.url, '/hello?x=1')
    const roots = (await scene.east.api('GET', '/v1/connect/ca/roots')).json as { TrustDomain: string }
    const westRoots = (await scene.west.api('GET', '/v1/connect/ca/roots')).json as { TrustDomain: string }
    const xfcc = String(seen.headers['x-forwarded-client-cert'])
    t.match(
      xfcc,
      new RegExp(
        `^By=spiffe://${westRoots.TrustDomain}/ns/default/dc/west/svc/api;Hash=[0-9a-f]{64};Cert="[^"]+";Chain="[^"]+";Subject="";URI=spiffe://${roots.TrustDomain}/ns/default/dc/east/svc/web$`,
      ),
    )
  })

  await t.test('on one keep-alive connection: allowed, then denied within a second of the intention, then allowed again', async t => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    const get = () => call(scene.apiPort, '/', { agent })
    const first = await get()
    t.equal(first.status, 200)
    await scene.intentions('api', [{ Name: 'web', Peer: eastName, Action: 'deny' }])
    const denied = await until(
      'denied',
      async () => {
        const answer = await get()
        return answer.status === 403 && answer
      },
      1000,
      5,
    )
    t.match(denied, { text: 'RBAC: access denied', headers: { 'content-type': 'text/plain' } })
    await scene.allow('web', 'api')
    await until('allowed again', async () => (await get()).status === 200, 1000, 5)
    t.equal(Object.values(agent.freeSockets).flat().length, 1, 'all of it on the one connection')
  })

  await t.test('GET /public is allowed while DELETE is denied', async t => {
    await scene.intentions('api', [
      { Name: 'web', Peer: eastName, Permissions: [{ Action: 'allow', HTTP: { PathPrefix: '/public', Methods: ['GET'] } }] },
    ])
    await until('rules are there', async () => (await call(scene.apiPort, '/private')).status === 403, 1000, 5)
    const before = scene.apiApp.requests()
    t.equal((await call(scene.apiPort, '/public')).status, 200)
    t.equal((await call(scene.apiPort, '/public', { method: 'DELETE' })).status, 403)
    t.equal((await call(scene.apiPort, '/public/../private')).status, 403, 'the normalised path counts too')
    t.equal(scene.apiApp.requests(), before + 1, 'the app saw the allowed one only')
    await scene.allow('web', 'api')
    await until('allowed again', async () => (await call(scene.apiPort, '/private')).status === 200, 1000, 5)
  })

  await t.test('a TCP upstream crosses, half-close included', async t => {
    const said = await exchange(scene.dbPort, 'select 1')
    t.equal(said, 'SELECT 1bye')
  })

  await t.test('an open TCP tunnel ends when it is no longer allowed', async t => {
    const socket = connect({ port: scene.dbPort, host: '127.0.0.1', allowHalfOpen: true })
    t.teardown(() => socket.destroy())
    const closed = new Promise(resolve => socket.once('close', resolve))
    socket.on('error', () => undefined)
    socket.once('end', () => socket.end())
    const echo = new Promise(resolve => socket.once('data', resolve))
    socket.write('hello')
    await within('the tunnel carries bytes', echo)
    await scene.intentions('db', [{ Name: 'web', Peer: eastName, Action: 'deny' }])
    await within('the tunnel is closed', closed, 1000)
    t.not(await exchange(scene.dbPort, 'again').catch(() => 'closed'), 'AGAINbye', 'and new ones are refused')
    await scene.allow('web', 'db')
    await until('allowed again', async () => (await exchange(scene.dbPort, 'x').catch(() => '')) === 'Xbye', 2000, 20)
  })

  await t.test('requests are counted by upstream, status and decision', async t => {
    const { text: outbound } = await call(scene.east.adminPort('web'), '/metrics')
    t.match(
      outbound,
      /^isthmus_proxy_requests_total\{door="outbound",upstream="api\?peer=west",class="2xx",decision="",component="sidecar"\} \d+$/m,
    )
    const { text: inbound } = await call(scene.west.adminPort('api'), '/metrics')
    t.match(inbound, /^isthmus_proxy_requests_total\{door="inbound",upstream="",class="2xx",decision="allow",component="sidecar"\} \d+$/m)
    t.match(
      inbound,
      /^isthmus_proxy_requests_total\{door="inbound",upstream="",class="4xx",decision="deny-intention",component="sidecar"\} \d+$/m,
    )
    t.match(inbound, /^isthmus_proxy_leaf_expiry_seconds\{component="sidecar"\} 2\d{5}/m, 'three days, in seconds')
  })

  await t.test('without an intention, a peer is denied, though local callers are allowed by default', async () => {
    await scene.west.api('DELETE', '/v1/config/service-intentions/api')
    await until('denied', async () => (await call(scene.apiPort, '/')).status === 403, 1000, 5)
    await scene.allow('web', 'api')
    await until('allowed again', async () => (await call(scene.apiPort, '/')).status === 200, 1000, 5)
  })
})
