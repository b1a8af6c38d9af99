/**
 * A real Envoy on either side of our proxies, configured as Consul would and without a Consul: as an importer's sidecar that dials our
 * gateway, where requests pass through and where they end, and as an exporter's gateway that our sidecar dials. Needs ENVOY_BIN.
 */
import { Agent } from 'node:http'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { findEnvoy } from '../../bench/machine/programs.ts'
import { serviceId } from '../../src/mesh/spiffe.ts'
import { freePorts } from '../support/free-ports.ts'
import {
  apiId,
  apiInternalSni,
  apiSni,
  call,
  converse,
  dbId,
  dbSni,
  eastDomain,
  endAtGateway,
  endpointAt,
  source,
  startScene,
  until,
  webId,
  westGatewayId,
  type Scene,
} from '../support/proxy-scene.ts'
import { gatewayConfig, sidecarConfig, startStatic, type StaticEnvoy } from './envoy-static.ts'

const envoy = findEnvoy()
const skip = envoy === undefined && 'there is no Envoy (ENVOY_BIN): nothing was tested against one'
if (skip) process.stderr.write(`# SKIPPED: ${skip}\n`)

const forged = { 'x-forwarded-client-cert': `By=x;URI=${serviceId(eastDomain, 'east', 'admin')}` }
/** `By` and `URI` of each element that the app saw last. */
function callersSeen(scene: Scene): string[] {
  const header = scene.apiApp.seen.at(-1)!.headers['x-forwarded-client-cert'] as string
  return header.split(',').map(element => `${/;URI=([^;]+)$/.exec(element)![1]!} to ${/^By=([^;]+);/.exec(element)![1]!}`)
}
const direct = [`${webId} to ${apiId}`]
const throughGateway = [`${webId} to ${westGatewayId}`, `${westGatewayId} to ${apiId}`]

/** What goes over one kept-alive connection to `port`, and that it goes on over one behind it, too. */
async function manyRequests(t: Test, port: number, connections: () => Promise<number>): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const before = await connections()
  for (let i = 0; i < 50; i += 1) {
    const body = i % 2 === 1 ? `body ${i}` : undefined
    const { status } = await call(port, `/${i}`, { agent, headers: forged, ...(body === undefined ? {} : { method: 'POST', body }) })
    if (status !== 200) t.fail(`request ${i}: ${status}`)
  }
  const made = (await connections()) - before
  t.ok(made <= 2, `${made} connections for 50 requests`)
}

function upgrade(port: number): Promise<string> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1', () =>
      socket.write('GET /up HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n'),
    )
    let heard = ''
    socket.on('error', () => {})
    socket.on('close', () => resolve(heard))
    socket.on('data', chunk => {
      heard += chunk.toString()
      if (heard.endsWith('\r\n\r\n')) socket.write('ping')
      if (heard.endsWith('ping')) socket.destroy()
    })
  })
}

async function denied(t: Test, scene: Scene, port: number): Promise<void> {
  const intentions = (...sources: ReturnType<typeof source>[]) => scene.west.tell('api-sidecar-proxy', [['intentions', 'api', { sources }]])
  intentions(source('web', 'deny', 'partner-east'), source('admin', 'allow', 'partner-east'))
  await until(async () => (await call(port, '/')).status === 403)
  t.match(await call(port, '/', { headers: forged }), { status: 403, body: 'RBAC: access denied' })
  intentions(source('web', 'allow', 'partner-east'))
  await until(async () => (await call(port, '/')).status === 200)
}

async function asSidecar(t: Test, scene: Scene): Promise<{ api: number; db: number; running: StaticEnvoy }> {
  const [api, db] = (await freePorts(2)) as [number, number]
  const leaf = await scene.mint.leaf(scene.eastRoot, { san: `URI:${webId}` })
  const who = { leaf, root: scene.westRoot, port: scene.gateway.port('wan')! }
  const running = await startStatic(
    envoy!,
    scene.mint.dir,
    sidecarConfig([
      { ...who, name: 'api', listen: api, sni: apiSni, ids: [apiId, westGatewayId], protocol: 'http' },
      { ...who, name: 'db', listen: db, sni: dbSni, ids: [dbId, westGatewayId], protocol: 'tcp' },
    ]),
  )
  t.teardown(() => running.stop())
  return { api, db, running }
}

t.test('an Envoy dials our gateway: what passes through, and what ends there', { skip }, async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  for (const ends of [false, true]) {
    if (ends) {
      endAtGateway(scene)
      await until(async () => (await call(scene.gateway.admin!.port, '/certs')).body.includes(westGatewayId))
    }
    await t.test(ends ? 'http ends at the gateway' : 'http passes through', async t => {
      const { api, db, running } = await asSidecar(t, scene)
      t.equal((await call(api, '/hello')).body, 'api GET /hello')
      await manyRequests(t, api, () => running.stat('cluster.api.upstream_cx_total'))
      t.same(callersSeen(scene), ends ? throughGateway : direct)
      await denied(t, scene, api)
      t.match(await upgrade(api), /^HTTP\/1\.1 101 [^]*ping$/)
      t.match(await converse(db, 'said'), { heard: 'hello from db\nsaid' }, 'bytes pass through, always')
    })
  }
})

t.test('our sidecar dials an Envoy that is a gateway', { skip }, async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const [listen] = (await freePorts(1)) as [number]
  const leaf = await scene.mint.leaf(scene.westRoot, { san: `URI:${westGatewayId}` })
  const who = { leaf, root: scene.westRoot, callers: scene.eastRoot }
  const running = await startStatic(
    envoy!,
    scene.mint.dir,
    gatewayConfig(listen, [
      { ...who, name: 'api', port: scene.api.port('public')!, sni: apiInternalSni, externalSni: apiSni, ids: [apiId], protocol: 'http' },
      { ...who, name: 'db', port: scene.db.port('public')!, sni: dbSni, externalSni: dbSni, ids: [dbId], protocol: 'tcp' },
    ]),
  )
  t.teardown(() => running.stop())
  scene.east.tell('web-sidecar-proxy', [
    ['endpoints', 'api-endpoints', { endpoints: [endpointAt(listen)] }],
    ['endpoints', 'db-endpoints', { endpoints: [endpointAt(listen)] }],
  ])
  const [api, db] = [scene.web.port('api?peer=west')!, scene.web.port('db?peer=west')!]
  await until(async () => (await call(api, '/')).status === 200 && callersSeen(scene).length === 2)
  await manyRequests(t, api, () => running.stat('http.api.downstream_cx_total'))
  t.same(callersSeen(scene), throughGateway, 'Envoy names the caller, and nobody else does')
  await denied(t, scene, api)
  t.match(await upgrade(api), /^HTTP\/1\.1 101 [^]*ping$/)
  t.match(await converse(db, 'said'), { heard: 'hello from db\nsaid' })
})
