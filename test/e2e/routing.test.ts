/**
 * Routing as an operator sets it up, in two peered clusters of real processes: names of the importer that lead to the peer, by redirect,
 * route and failover, and a name of the exporter that leads on inside it. Everything is written over the API.
 */
import t from 'tap'
import { freePorts } from '../support/free-ports.ts'
import { call, until } from '../support/processes.ts'
import { registerWeb, startTwoClusters, westName, type Seen } from '../support/two-clusters.ts'

t.setTimeout(120_000)

t.test('names lead to services of a peer, and on inside it', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const [shop, front] = (await freePorts(2)) as [number, number]
  const put = async (cluster: typeof east, body: object) => {
    const { status, text } = await cluster.api('PUT', '/v1/config', body)
    t.equal(status, 200, text)
  }
  const entry = (Kind: string, Name: string, more: object = {}) => ({ Kind, Name, ...more })
  await registerWeb(east, [
    { DestinationName: 'shop', LocalBindPort: shop },
    { DestinationName: 'front', DestinationPeer: westName, LocalBindPort: front },
  ])
  const seen = async (port: number, path: string): Promise<Partial<Seen> | number> => {
    const { status, json } = await call(port, path, { timeoutMs: 2000 })
    return status === 200 ? (json as Seen) : status
  }
  const reaches = (port: number, path: string, url: string) =>
    until(`${path} arrives as ${url}`, async () => ((await seen(port, path).catch(() => 0)) as Partial<Seen>).url === url)

  await put(east, entry('service-defaults', 'shop', { Protocol: 'http' }))
  await put(east, entry('service-resolver', 'shop', { Redirect: { Service: 'api', Peer: westName } }))
  await reaches(shop, '/redirected', '/redirected')

  const toApi = { Service: 'api', Peer: westName }
  await east.api('DELETE', '/v1/config/service-resolver/shop')
  const RequestHeaders = { Set: { 'x-routed': 'yes' } }
  const Routes = [{ Match: { HTTP: { PathPrefix: '/v2' } }, Destination: { ...toApi, PrefixRewrite: '/', RequestHeaders } }]
  await put(east, entry('service-router', 'shop', { Routes }))
  await reaches(shop, '/v2/routed?a=b', '/routed?a=b')
  t.match(await seen(shop, '/v2/x'), { app: 'api', url: '/x', headers: { 'x-routed': 'yes' } })
  t.equal(await seen(shop, '/elsewhere'), 503, 'of shop itself there is no instance')
  await put(east, entry('service-resolver', 'shop', { Failover: { '*': { Targets: [toApi] } } }))
  await reaches(shop, '/elsewhere', '/elsewhere')
  const { json } = await east.api('GET', '/v1/discovery-chain/shop')
  t.match(json, {
    Chain: {
      StartNode: 'router:shop.default.default',
      Nodes: { 'resolver:shop.default.default.east': { Resolver: { Failover: { Targets: ['api.default.default.external.west'] } } } },
    },
  })

  await put(west, entry('service-defaults', 'front', { Protocol: 'http' }))
  await put(west, entry('service-resolver', 'front', { Redirect: { Service: 'api' } }))
  await scene.export(['api', 'db', 'front'])
  await reaches(front, '/through', '/through')

  // Requests that must be looked at end at the gateway; who called is known all the same.
  await west.api('DELETE', '/v1/config/service-resolver/front')
  await put(
    west,
    entry('service-router', 'front', {
      Routes: [{ Match: { HTTP: { PathPrefix: '/v3' } }, Destination: { Service: 'api', PrefixRewrite: '/', RequestHeaders } }],
    }),
  )
  await reaches(front, '/v3/inside', '/inside')
  const inside = (await seen(front, '/v3/x')) as Seen
  t.match(inside, { url: '/x', headers: { 'x-routed': 'yes' } })
  t.match(inside.headers['x-forwarded-client-cert'], /^By=[^,]*\/gateway\/mesh\/dc\/west;[^,]*URI=spiffe:\/\/[^,]*\/dc\/east\/svc\/web,/)
  t.equal(await seen(front, '/elsewhere'), 503, 'of front itself there is no instance')
  await scene.intentions('api', [{ Name: 'web', Peer: 'partner-east', Action: 'deny' }])
  await until('the intentions of where it leads decide', async () => (await seen(front, '/v3/').catch(() => 0)) === 403)
})
