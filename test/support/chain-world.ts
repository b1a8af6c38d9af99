/**
 * A chain in real processes' terms: `shop` in east, whose versions v1 and v2 are behind sidecars of their own, and `api` of the peer west
 * behind its gateway. The test says what web's sidecar is told of the chain.
 */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import { internalSni } from '../../src/mesh/sni.ts'
import { names } from '../../src/mesh/snapshot.ts'
import { serviceId } from '../../src/mesh/spiffe.ts'
import { startSidecar, type RunningSidecar } from '../../src/proxy/sidecar.ts'
import { chainOf } from './chain-entries.ts'
import { apiId, apiSni, eastDomain, endpointAt, sidecarSelf, source, startScene, until, upstreamOf, type Scene } from './proxy-scene.ts'

const http = { Kind: 'proxy-defaults', Config: { protocol: 'http' } }
export const subsets = { v1: { Filter: 'Service.Meta.v == 1' }, v2: { Filter: 'Service.Meta.v == 2' } }
export const shopId = serviceId(eastDomain, 'east', 'shop')
export const inWest = 'api.default.default.external.west'
export const target = (subset: string) => `${subset}.shop.default.default.east`

export interface World {
  scene: Scene
  /** By version: the requests that its app saw. */
  seen: Record<string, { url: string; headers: Record<string, unknown> }[]>
  apps: Record<string, Server>
  sidecars: Record<string, RunningSidecar>
  /** What web's sidecar is told of the chain of `shop`. */
  tell(entries: object[], protocol?: string): void
  health(of: Record<string, boolean>): void
  port(): number
}

export async function startWorld(t: Test): Promise<World> {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const seen: World['seen'] = { v1: [], v2: [] }
  const apps: World['apps'] = {}
  const sidecars: World['sidecars'] = {}
  for (const version of ['v1', 'v2']) {
    const app = (apps[version] = createServer((request, response) => {
      seen[version]!.push({ url: request.url!, headers: request.headers })
      if (request.url === '/slow') return
      if (request.url === '/bad') return void response.writeHead(503).end()
      if (request.url === '/third' && seen[version]!.length % 3 !== 0) return void response.writeHead(503).end()
      response.writeHead(200, { 'x-app': version, 'x-drop': '1' }).end(version)
    }))
    await new Promise<void>(resolve => app.listen(0, '127.0.0.1', resolve))
    t.teardown(() => app.close())
    const proxyId = `shop-${version}`
    scene.east.tell(proxyId, [
      ['self', proxyId, sidecarSelf('east', 'shop', 'http', (app.address() as AddressInfo).port, { proxyId })],
      ['roots', names.localRoots, { trustDomain: eastDomain, peer: '', exportedPartition: '', pems: [scene.eastRoot.certPem] }],
      ['intentions', 'shop', { sources: [source('web', 'allow', undefined, 'shop')] }],
    ])
    const options = { proxyId, agent: { url: scene.east.url }, admin: { host: '127.0.0.1', port: 0 }, logger: silentLogger() }
    const sidecar = (sidecars[version] = await startSidecar(options))
    t.teardown(() => sidecar.close())
    await sidecar.ready()
  }
  const local = (subset: string) => ({
    service: 'shop',
    peer: '',
    protocol: 'http',
    sni: `${subset}.${internalSni('shop', 'east', eastDomain)}`,
    spiffeIds: [shopId],
    connectTimeoutMs: 2000,
    endpoints: `shop#${subset}`,
  })
  const { listen: _, ...peered } = upstreamOf('api', 'http', apiSni, apiId)
  const health: World['health'] = of => {
    for (const [version, healthy] of Object.entries(of)) {
      const endpoints = { endpoints: [endpointAt(sidecars[version]!.port('public')!, healthy)] }
      scene.east.tell('web-sidecar-proxy', [['endpoints', `shop#${version}`, endpoints]])
    }
  }
  const tell: World['tell'] = entries => {
    const chain = chainOf('shop', 'east', eastDomain, [http, ...entries])
    const targets = Object.fromEntries(Object.keys(chain.targets).map(id => [id, names.target('shop', id)]))
    scene.east.tell('web-sidecar-proxy', [
      ['upstream', names.target('shop', target('v1')), local('v1')],
      ['upstream', names.target('shop', target('v2')), local('v2')],
      ['upstream', names.target('shop', inWest), peered],
      ['chain', 'shop', { protocol: 'http', listen: { address: '127.0.0.1', port: 0 }, chain, targets }],
    ])
  }
  health({ v1: true, v2: true })
  return { scene, seen, apps, sidecars, tell, health, port: () => scene.web.port('shop')! }
}

export const listening = ({ scene }: World) => until(() => scene.web.port('shop') !== undefined)
