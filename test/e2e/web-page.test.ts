// A web page in the operator's browser cannot drive the API of an agent on the same machine: real processes, what a browser would send.
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { call, cliPath, ClusterProcess } from '../support/processes.ts'

t.test('what a browser says about a page of another site is believed and refused', async t => {
  const cluster = await ClusterProcess.start('east')
  t.teardown(() => cluster.stop())
  const { http } = cluster.ports
  const own = `127.0.0.1:${http}`
  const pages: [string, Record<string, string>][] = [
    ['a form or a fetch of another site', { Origin: 'https://evil.example', 'Sec-Fetch-Site': 'cross-site' }],
    ['a browser without Sec-Fetch', { Origin: 'https://evil.example' }],
    ['a page of another port of this machine', { Origin: 'http://127.0.0.1:3000', 'Sec-Fetch-Site': 'same-site' }],
    ['a sandboxed frame', { Origin: 'null' }],
    ['an image or a script, which have no Origin', { 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors' }],
    ['a name that was pointed here (DNS rebinding)', { Host: `evil.example:${http}` }],
    [
      'such a name, same-origin to the browser',
      { Host: `evil.example:${http}`, Origin: `http://evil.example:${http}`, 'Sec-Fetch-Site': 'same-origin' },
    ],
  ]
  for (const [who, headers] of pages) {
    const key = `/v1/kv/${encodeURIComponent(who)}`
    const written = await call(http, key, { method: 'PUT', body: 'x', headers: { Host: own, 'Content-Type': 'text/plain', ...headers } })
    t.equal(written.status, 403, `${who} writes nothing`)
    t.match(written.text, /refused/, 'and is told why')
    t.equal(written.headers['access-control-allow-origin'], undefined)
    t.equal((await call(http, key)).status, 404, 'nothing was written')
    for (const path of ['/v1/agent/self', '/v1/agent/connect/ca/leaf/web', '/v1/agent/metrics?format=prometheus']) {
      t.equal((await call(http, path, { headers: { Host: own, ...headers } })).status, 403, `${who} reads nothing of ${path}`)
    }
  }
  const preflight = { Host: own, Origin: 'https://evil.example', 'Access-Control-Request-Method': 'PUT' }
  t.equal((await call(http, '/v1/kv/a', { method: 'OPTIONS', headers: preflight })).status, 403, 'no preflight is answered')

  for (const headers of [{}, { Host: `localhost:${http}` }, { Host: own, 'Sec-Fetch-Site': 'none' }] as Record<string, string>[]) {
    t.equal((await call(http, '/v1/agent/self', { headers })).status, 200, `a program is welcome: ${JSON.stringify(headers)}`)
  }
})

t.test('an address beyond loopback needs a flag that says what it means', async t => {
  const directory = await mkdtemp(join(tmpdir(), 'isthmus-client-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  for (const flags of [
    ['--client', '0.0.0.0'],
    ['--client', '::'],
    ['--client', '10.0.0.1'],
  ]) {
    const child = spawn(process.execPath, [cliPath, 'agent', '--data-dir', join(directory, 'data'), ...flags], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said += chunk.toString()))
    const code = await new Promise(resolve => child.once('close', resolve))
    t.equal(code, 1)
    t.equal(
      said,
      `client_addr ${flags[1]} is not a loopback address, and without ACLs anyone who reaches it could drive this cluster; set allow_unauthenticated_clients (or --allow-unauthenticated-clients) if the network itself keeps others out\n`,
    )
  }
})
