/** What a proxy asks of its agent over HTTP: its snapshot as a stream, its leaf signed (wire/internal-api), end to end. */
import { generateKeyPairSync, X509Certificate } from 'node:crypto'
import { request as httpRequest } from 'node:http'
import { createServer, type AddressInfo } from 'node:net'
import t from 'tap'
import type { SnapshotLine } from '../../../src/mesh/snapshot.ts'
import { internalApi } from '../../../src/wire/internal-api.ts'
import { createCsr } from '../../../src/proxy/csr.ts'
import { agentWithHttp } from '../../support/agent-parts.ts'
import { ask } from '../../support/golden-http.ts'
import { until } from '../../support/processes.ts'

const agent = await agentWithHttp({ grpc: false })
t.teardown(() => agent.close())
await put('/v1/agent/service/register', {
  Name: 'web',
  Port: 8080,
  Connect: { SidecarService: { Proxy: { Upstreams: [{ DestinationName: 'api', LocalBindPort: 5000 }] } } },
})
const proxyId = 'web-sidecar-proxy'

async function put(path: string, body: unknown): Promise<void> {
  const answer = await ask(agent.url, 'PUT', path, {}, JSON.stringify(body))
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${answer.body.toString()}`)
}

/** Reads a stream until `done`; then hangs up. */
function follow(
  done: (lines: SnapshotLine[]) => boolean,
  onOpen?: () => void,
): Promise<{ lines: SnapshotLine[]; type: string | undefined }> {
  return new Promise((resolve, reject) => {
    const lines: SnapshotLine[] = []
    let rest = ''
    const request = httpRequest(`${agent.url}${internalApi.snapshot(proxyId)}`, { agent: false }, response => {
      response.setEncoding('utf8')
      response.on('error', () => undefined)
      response.on('data', (chunk: string) => {
        const parts = (rest + chunk).split('\n')
        rest = parts.pop()!
        lines.push(...parts.map(line => JSON.parse(line) as SnapshotLine))
        if (lines.length === parts.length) onOpen?.()
        if (!done(lines)) return
        request.destroy()
        resolve({ lines, type: response.headers['content-type'] })
      })
    })
    request.on('error', reject)
    request.end()
  })
}

const syncs = (lines: SnapshotLine[]) => lines.filter(line => line.kind === 'sync').length

t.test('the first set is whole and ends with a sync; a heartbeat follows', async t => {
  const { lines, type } = await follow(all => syncs(all) === 2)
  t.equal(type, 'application/x-ndjson')
  const first = lines.slice(0, lines.findIndex(line => line.kind === 'sync') + 1)
  t.same(new Set(first.map(line => line.kind)), new Set(['self', 'roots', 'intentions', 'upstream', 'endpoints', 'sync']))
  const self = first.find(line => line.kind === 'self')
  t.match(self?.kind === 'self' && self.value, { proxyId, service: 'web', datacenter: 'dc1', trustDomain: agent.parts.ca.trustDomain })
})

t.test('a change sends what changed, and no more', async t => {
  const { lines } = await follow(
    all => all.some(line => line.kind === 'intentions' && (line.value?.sources.length ?? 0) > 0),
    () => void put('/v1/connect/intentions/exact?source=a&destination=web', { Action: 'deny' }),
  )
  const after = lines.slice(lines.findIndex(line => line.kind === 'sync') + 1).filter(line => line.kind !== 'sync')
  t.same(
    after.map(line => line.kind),
    ['intentions'],
  )
})

t.test('a proxy that is not registered has no snapshot and no leaf', async t => {
  const stream = await ask(agent.url, 'GET', internalApi.snapshot('nope'))
  t.same([stream.status, /no proxy "nope" is registered on this agent/.test(stream.body.toString())], [404, true])
  const signed = await ask(agent.url, 'PUT', internalApi.sign('nope'), {}, '{"CSR":"x"}')
  t.equal(signed.status, 404)
  t.equal((await ask(agent.url, 'PUT', internalApi.serving('nope'), {}, '{}')).status, 404)
})

t.test('a certificate request for the own identity is signed; one for another is refused', async t => {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const uri = `spiffe://${agent.parts.ca.trustDomain}/ns/default/dc/dc1/svc/web`
  const sign = (name: string) => ask(agent.url, 'PUT', internalApi.sign(proxyId), {}, JSON.stringify({ CSR: createCsr(privateKey, name) }))
  const signed = await sign(uri)
  t.equal(signed.status, 200)
  const { CertPEM, SpiffeID } = JSON.parse(signed.body.toString()) as { CertPEM: string; SpiffeID: string }
  t.same([SpiffeID, new X509Certificate(CertPEM).subjectAltName], [uri, `URI:${uri}`])
  const stolen = await sign(uri.replace('/svc/web', '/svc/bank'))
  t.ok(stolen.status >= 400 && stolen.status < 500, String(stolen.status))
})

t.test('a proxy whose stream ends, or that says that it serves, is looked at at once, not when its check is due', async t => {
  const door = createServer(socket => socket.destroy())
  const listen = (port: number) => new Promise<void>(resolve => door.listen(port, '127.0.0.1', resolve))
  await listen(0)
  t.teardown(() => door.close())
  const { port } = door.address() as AddressInfo
  const Check = { TCP: `127.0.0.1:${port}`, Interval: '10m' }
  const gateway = { Kind: 'mesh-gateway', Name: 'gate', Address: '127.0.0.1', Port: port, Check }
  await put('/v1/agent/service/register', gateway)
  const becomes = (status: string) =>
    until(status, async () => (await ask(agent.url, 'GET', '/v1/health/checks/gate')).body.toString().includes(`"Status":"${status}"`))
  await becomes('passing')
  const killed = new Promise<void>((resolve, reject) => {
    const request = httpRequest(`${agent.url}${internalApi.snapshot('gate')}`, { agent: false }, response => {
      response.on('error', () => undefined)
      response.once('data', () => {
        door.close()
        request.destroy()
        resolve()
      })
    })
    request.on('error', reject)
    request.end()
  })
  await killed
  await becomes('critical')
  t.pass('it is critical long before the ten minutes are over')
  await listen(port)
  const told = await ask(agent.url, 'PUT', internalApi.serving('gate'), {}, '{}')
  t.same([told.status, told.body.toString()], [200, '{}'])
  await becomes('passing')
  t.pass('and passing again')
})

t.test('closing the door ends the streams', async t => {
  const own = await agentWithHttp({ grpc: false })
  await ask(own.url, 'PUT', '/v1/agent/service/register', {}, JSON.stringify({ Name: 'web', Port: 1, Connect: { SidecarService: {} } }))
  const ended = new Promise<void>(resolve => {
    httpRequest(`${own.url}${internalApi.snapshot(proxyId)}`, { agent: false }, response => {
      response.once('data', () => void own.close())
      response.on('error', () => undefined)
      response.once('close', resolve)
    })
      .on('error', () => resolve())
      .end()
  })
  await ended
  t.pass('the stream ended with the door')
})

t.end()
