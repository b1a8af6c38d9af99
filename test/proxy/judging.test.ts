/** What the server's side makes of intentions with tokens, of those that are only tried out, and what it says of a denial to whom. */
import { generateKeyPairSync, sign } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { internalSni } from '../../src/mesh/sni.ts'
import {
  apiId,
  call,
  endpointAt,
  metricOf,
  sidecarSelf,
  source,
  startHttpApp,
  startScene,
  until,
  upstreamOf,
  westDomain,
  westResources,
  type Scene,
} from '../support/proxy-scene.ts'
import { startSidecar } from '../../src/proxy/sidecar.ts'
import { silentLogger } from '../../src/lib/log.ts'

type Source = ReturnType<typeof source> & { audit?: boolean; jwt?: { providers: { name: string }[] }; permissions?: object[] }

interface World {
  scene: Scene
  /** What the sidecar of `api` holds its callers to. */
  intentions: (sources: Partial<Source>[]) => void
  /** From `shop`, in the cluster of `api`. */
  near: (path: string, headers?: Record<string, string>) => ReturnType<typeof call>
  /** From `web`, in the peer. */
  far: (path: string, headers?: Record<string, string>) => ReturnType<typeof call>
}

async function start(t: Test): Promise<World> {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const app = await startHttpApp()
  t.teardown(() => app.close())
  const proxyId = 'shop-sidecar-proxy'
  const self = sidecarSelf('west', 'shop', 'http', app.port, { proxyId, inboundPeers: [] })
  const upstream = { ...upstreamOf('api', 'http', internalSni('api', 'west', westDomain), apiId), peer: '' }
  scene.west.tell(proxyId, [
    ...westResources(self, scene, []),
    ['upstream', 'api', upstream],
    ['endpoints', 'api-endpoints', { endpoints: [endpointAt(scene.api.port('public')!)] }],
  ])
  const shop = await startSidecar({
    proxyId,
    agent: { url: scene.west.url },
    admin: { host: '127.0.0.1', port: 0 },
    logger: silentLogger(),
  })
  t.teardown(() => shop.close())
  await shop.ready()
  return {
    scene,
    intentions: sources =>
      scene.west.tell('api-sidecar-proxy', [
        ['intentions', 'api', { sources: sources.map(each => ({ ...source('', ''), ...each })) as never }],
      ]),
    near: (path, headers = {}) => call(shop.port('api')!, path, { headers }),
    far: (path, headers = {}) => call(scene.web.port('api?peer=west')!, path, { headers }),
  }
}

const brief = async (answer: ReturnType<typeof call>) => {
  const { status, headers } = await answer
  return [status, headers['x-isthmus-deny']]
}

t.test("a caller of the own cluster is told which rule denied him; a peer's is not", async t => {
  const { intentions, near, far } = await start(t)
  const permissions = [
    { action: 'deny', http: { pathExact: '/no' } },
    { action: 'allow', http: { pathPrefix: '/' } },
  ]
  intentions([
    { name: 'shop', permissions },
    { name: 'web', peer: 'partner-east', permissions },
  ])
  await until(async () => (await near('/yes')).status === 200)
  t.same(await brief(near('/no')), [403, 'shop => api, permission 0'])
  t.same(await brief(far('/yes')), [200, undefined])
  t.same(await brief(far('/no')), [403, undefined])
  intentions([{ name: 'other', action: 'allow' }])
  await until(async () => (await near('/yes')).status === 403)
  t.same(await brief(near('/yes')), [403, 'no intention; default deny'])
  t.same(await brief(far('/yes')), [403, undefined])
})

t.test('an intention that is only tried out lets everybody in and counts whom it would not', async t => {
  const { scene, intentions, near, far } = await start(t)
  intentions([
    { name: 'shop', audit: true, action: 'deny' },
    { name: 'web', peer: 'partner-east', audit: true, permissions: [{ action: 'deny', http: { pathExact: '/no' } }] },
  ])
  await until(async () => (await near('/')).status === 200)
  t.equal((await far('/no')).status, 200)
  t.equal((await far('/other')).status, 403, 'what no permission says is left to the default')
  const audited = () => metricOf(scene.api, 'isthmus_proxy_decisions_total\\{[^}]*decision="audit"[^}]*\\}')
  t.equal(await audited(), 2)
})

t.test('a token is asked for by the source or by one permission, and its claims are held to', async t => {
  const { scene, intentions, near, far } = await start(t)
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const jwks = Buffer.from(JSON.stringify({ keys: [publicKey.export({ format: 'jwk' })] })).toString('base64')
  const provider = { issuer: 'me', audiences: ['api'], locations: [], clockSkewSeconds: 0, jwks }
  scene.west.tell('api-sidecar-proxy', [['jwt-provider', 'okta', provider]])
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const bearer = (claims: object) => {
    const data = `${part({ alg: 'ES256' })}.${part({ iss: 'me', aud: 'api', ...claims })}`
    const signature = sign('sha256', Buffer.from(data), { key: privateKey, dsaEncoding: 'ieee-p1363' })
    return { authorization: `Bearer ${data}.${signature.toString('base64url')}` }
  }
  const jwt = { providers: [{ name: 'okta', verifyClaims: [{ path: ['roles'], value: 'admin' }] }] }
  intentions([
    { name: 'shop', action: 'allow', jwt: { providers: [{ name: 'okta' }] } },
    {
      name: 'web',
      peer: 'partner-east',
      permissions: [
        { action: 'allow', http: { pathPrefix: '/admin' }, jwt },
        { action: 'allow', http: { pathExact: '/open' } },
      ],
    },
  ])
  await until(async () => (await near('/', bearer({}))).status === 200)
  t.same(await brief(near('/')), [403, 'shop => api, a token is needed'])
  t.same(await brief(near('/', bearer({ aud: 'other' }))), [403, 'shop => api, a token is needed'])
  t.same(await brief(near('/', bearer({ exp: 5 }))), [403, 'shop => api, a token is needed'])
  t.same(await brief(far('/open')), [200, undefined])
  t.same(await brief(far('/admin/x')), [403, undefined])
  t.same(await brief(far('/admin/x', bearer({ roles: ['user'] }))), [403, undefined])
  t.same(await brief(far('/admin/x', bearer({ roles: ['user', 'admin'] }))), [200, undefined])
  t.same(await brief(call(scene.web.port('api?peer=west')!, `/admin?access_token=${bearer({ roles: 'admin' }).authorization.slice(7)}`)), [
    200,
    undefined,
  ])

  await t.test('what a token let in ends with it: a tunnel that was opened, and nothing else', async t => {
    const tunnel = async (exp: number) => {
      const socket = connect({ port: scene.web.port('api?peer=west')!, host: '127.0.0.1' })
      t.teardown(() => socket.destroy())
      const closed = new Promise<number>(resolve => socket.once('close', () => resolve(Date.now())))
      const { authorization } = bearer({ roles: 'admin', exp })
      const head = `GET /admin/ws HTTP/1.1\r\nhost: api\r\nauthorization: ${authorization}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n`
      socket.write(head)
      t.match(await heard(socket), /^HTTP\/1\.1 101 /)
      return { socket, closed }
    }
    const endsMs = Date.now() + 700
    const [short, long] = await Promise.all([tunnel(endsMs / 1000), tunnel(endsMs / 1000 + 3600)])
    short.socket.write('early')
    t.equal(await heard(short.socket), 'early')
    const tookMs = (await short.closed) - endsMs
    t.ok(tookMs >= 0 && tookMs < 3000, `${tookMs} ms after its end`)
    long.socket.write('late')
    t.equal(await heard(long.socket), 'late')
  })

  scene.west.tell('api-sidecar-proxy', [['jwt-provider', 'okta', null]])
  await until(async () => (await near('/', bearer({}))).status === 403)
  t.equal((await far('/admin', bearer({ roles: 'admin' }))).status, 403, 'a provider that is gone vouches for nobody')
})

function heard(socket: Socket): Promise<string> {
  return new Promise(resolve => socket.once('data', (chunk: Buffer) => resolve(chunk.toString())))
}
