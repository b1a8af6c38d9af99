/**
 * One story of routing, told by separate processes with requests under way: a canary in the peer, a user who is sent there by a header, an
 * answer that is tried again, a path that asks for a token, and a service whose death costs no more than what was under way. What `why` says
 * of each, before and after, is what happens. Then names of the importer that lead to the peer, and one of the exporter that leads on
 * inside it. Everything is written over the API; what was counted is printed. With ISTHMUS_DEEP=1 at length: 10,000 requests of the canary,
 * zones, every way to die, and the way back.
 */
import { generateKeyPairSync, sign } from 'node:crypto'
import { Agent } from 'node:http'
import t from 'tap'
import { freePorts } from '../support/free-ports.ts'
import { PacedTraffic, type Stretch } from '../support/paced-traffic.ts'
import { call, start, until, type Call, type ClusterProcess, type Running } from '../support/processes.ts'
import { eastName, startTwoClusters, westName, type Seen } from '../support/two-clusters.ts'

const isDeep = process.env['ISTHMUS_DEEP'] === '1'
const deepOnly = isDeep ? false : 'set ISTHMUS_DEEP=1'
/** The allowance in points is more than three times the standard deviation of a share of one tenth of so many requests: 0.3, or 1.2. */
const canary = isDeep ? { requests: 10_000, points: 1 } : { requests: 600, points: 5 }
const callers = 16
const pace = { perSecond: 200, connections: 16, tunnels: 0 }
/** What the shop takes for an answer, so that there is something under way when it dies. */
const slowMs = 50
const checkMs = { interval: 250, timeout: 200 }
/** Who dies is known dead this long after at the latest. */
const knownMs = 1000

/** Where both nodes say that they are. */
const here = { region: 'eu', zone: 'a' }

const toApi = { Service: 'api', Peer: westName }

t.setTimeout(180_000)

interface Explained {
  Verdict: string
  Code?: string
  Text: string
  Steps: { Step: string; State: string; Code?: string; Text: string; Target?: string; Details?: string[]; From?: { Entry: string }[] }[]
}

/** What is said of each step that has to do with the way, and the outcome. */
async function why(cluster: ClusterProcess, source: string, destination: string, path = '/', ...headers: string[]) {
  const query = new URLSearchParams({ source, destination, method: 'GET', path })
  for (const header of headers) query.append('header', header)
  const { Verdict, Code, Text, Steps } = (await cluster.api('GET', `/v1/isthmus/why?${query.toString()}`)).json as Explained
  const of = (step: string) => Steps.filter(({ Step }) => Step === step)
  return {
    outcome: [Verdict, ...(Code === undefined ? [] : [Code])].join(' '),
    text: Text,
    route: of('route').map(each => each.Text),
    details: of('route').flatMap(each => each.Details ?? []),
    split: of('split').map(each => each.Text),
    resolver: of('resolver').map(each => each.Text),
    by: Steps.flatMap(({ From = [] }) => From.map(({ Entry }) => Entry)).filter(entry => entry.startsWith('service-resolver/')),
  }
}

t.test('a story of routing', async t => {
  const scene = await startTwoClusters({ config: { locality: here } })
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const [shopPort, entrance, farPort, kioskPort, frontPort] = (await freePorts(5)) as [number, number, number, number, number]
  const write = async (cluster: typeof east, Kind: string, Name: string, more: object) => {
    const { status, text } = await cluster.api('PUT', '/v1/config', { Kind, Name, ...more })
    if (status !== 200) throw new Error(`${Kind}/${Name}: ${text}`)
  }
  const remove = (kind: string) => east.api('DELETE', `/v1/config/${kind}/shop`)
  /** Who answered, or the status where it is not 200. */
  const asked = async (path: string, options: Call = {}): Promise<string | number> => {
    const { status, json } = await call(entrance, path, { timeoutMs: 2000, ...options })
    return status === 200 ? (json as { app: string }).app : status
  }
  const shop = (path?: string, ...headers: string[]) => why(east, 'web', 'shop', path, ...headers)
  const settles = (what: string, path: string, wanted: string | number, options: Call = {}) =>
    until(what, async () => (await asked(path, options)) === wanted)

  let app: Running
  const startShop = (answersMs: number) => {
    app = start(process.execPath, ['examples/routing/app.js', 'shop', String(shopPort), String(answersMs)])
  }
  startShop(0)
  t.teardown(() => app.stop())
  await write(east, 'service-defaults', 'shop', { Protocol: 'http' })
  const health = `http://127.0.0.1:${shopPort}/health`
  await east.api('PUT', '/v1/agent/service/register', {
    Name: 'shop',
    Port: shopPort,
    Check: { HTTP: health, Interval: `${checkMs.interval}ms`, Timeout: `${checkMs.timeout}ms` },
    Connect: { SidecarService: {} },
  })
  const Upstreams = [
    { DestinationName: 'shop', LocalBindPort: entrance, Config: { prioritize_by_locality: 'failover' } },
    { DestinationName: 'api', DestinationPeer: westName, LocalBindPort: scene.apiPort },
    { DestinationName: 'kiosk', LocalBindPort: kioskPort },
    { DestinationName: 'front', DestinationPeer: westName, LocalBindPort: frontPort },
  ]
  await east.api('PUT', '/v1/agent/service/register', { Name: 'web', Port: 9, Connect: { SidecarService: { Proxy: { Upstreams } } } })
  await east.proxy('shop', 'sidecar', '--for', 'shop')
  await settles('the shop answers', '/', 'shop')

  const plain = { outcome: 'allow', route: [], split: [], resolver: [] }

  await t.test(`of ${canary.requests} requests a tenth goes to the canary in the peer`, async t => {
    t.match(await shop(), plain, 'why, before')
    await write(east, 'service-splitter', 'shop', { Splits: [{ Weight: 90 }, { Weight: 10, ...toApi }] })
    await settles('the canary is asked', '/', 'api')
    t.match(await shop(), {
      outcome: 'depends',
      text: /shop: allow, api@west: unknown/,
      split: ['90% of requests take service-splitter/shop[0]', '10% of requests take service-splitter/shop[1]'],
      resolver: [/leads to shop$/, /leads to api@west$/],
    })
    const counts: Record<string, number> = {}
    const agent = new Agent({ keepAlive: true, maxSockets: callers })
    let left = canary.requests
    const one = async () => {
      for (; left > 0;) {
        left -= 1
        const who = await asked('/', { agent })
        counts[who] = (counts[who] ?? 0) + 1
      }
    }
    await Promise.all(Array.from({ length: callers }, one))
    agent.destroy()
    t.comment(JSON.stringify({ counts }))
    t.same(Object.keys(counts).sort(), ['api', 'shop'], 'everybody was answered by one of the two')
    const share = (counts['api']! * 100) / canary.requests
    t.ok(Math.abs(share - 10) <= canary.points, `${share.toFixed(2)} % went to the canary`)
    await remove('service-splitter')
    await until('no canary', async () => (await everyone(20, () => asked('/'))).every(who => who === 'shop'))
    t.match(await shop(), plain, 'why, after')
  })

  await t.test('a user is sent to the peer by a header, and an answer of 503 is tried again', async t => {
    t.equal(await asked('/', { headers: { 'x-user': 'ada' } }), 'shop', 'before')
    t.match(await shop('/', 'x-user: ada'), plain)
    t.equal(await asked('/flaky/before'), 503)
    const Routes = [
      { Match: { HTTP: { Header: [{ Name: 'x-user', Exact: 'ada' }] } }, Destination: toApi },
      { Match: { HTTP: { PathPrefix: '/flaky' } }, Destination: { NumRetries: 1, RetryOnStatusCodes: [503] } },
    ]
    await write(east, 'service-router', 'shop', { Routes })
    await settles('ada is sent on', '/', 'api', { headers: { 'x-user': 'ada' } })
    t.equal(await asked('/', { headers: { 'x-user': 'bob' } }), 'shop')
    t.equal(await asked('/'), 'shop')
    t.match(await shop('/', 'x-user: ada'), {
      outcome: 'unknown exporter-decides',
      route: ['service-router/shop[0] takes it'],
      resolver: [/leads to api@west$/],
    })
    const caught = ["none of the 2 routes matches; the router's own last one takes it"]
    for (const headers of [['x-user: bob'], []]) t.match(await shop('/', ...headers), { outcome: 'allow', route: caught })
    t.match(await shop('/flaky/x'), {
      outcome: 'allow',
      route: ['service-router/shop[1] takes it'],
      details: ['tries again once, on 503 too'],
      resolver: [/leads to shop$/],
    })
    const { json } = await call(entrance, '/flaky/after')
    t.same(json, { app: 'shop', path: '/flaky/after', times: 2 }, 'the second answer is what the caller sees')
    for (let i = 0; i < 20; i += 1) t.equal(await asked(`/flaky/${i}`), 'shop')
    t.equal(await asked('/flaky/post', { method: 'POST', body: 'once' }), 503, 'what must not be done twice is not tried again')
    await remove('service-router')
    await settles('no router', '/', 'shop', { headers: { 'x-user': 'ada' } })
    t.match(await shop('/flaky/x', 'x-user: ada'), plain)
  })

  await t.test('a path asks for a token', async t => {
    const { jwks, bearer } = issuer()
    const get = async (path: string, headers: Record<string, string> = {}) => (await call(scene.apiPort, path, { headers })).status
    const told = async (path: string, headers: { authorization?: string } = {}) => {
      const lines = headers.authorization === undefined ? [] : [`authorization: ${headers.authorization}`]
      const { outcome, text } = await why(west, `web@${eastName}`, 'api', path, ...lines)
      return [outcome, text] as const
    }
    t.equal(await get('/admin'), 200, 'before')
    t.match(await told('/admin'), ['allow', /allows it/])
    await write(west, 'jwt-provider', 'staff', { Issuer: 'isthmus-test', JSONWebKeySet: { Local: { JWKS: jwks } } })
    const JWT = { Providers: [{ Name: 'staff', VerifyClaims: [{ Path: ['role'], Value: 'admin' }] }] }
    const Permissions = [
      { Action: 'allow', HTTP: { PathPrefix: '/admin' }, JWT },
      { Action: 'deny', HTTP: { PathPrefix: '/admin' } },
      { Action: 'allow', HTTP: { PathPrefix: '/' } },
    ]
    await scene.intentions('api', [{ Name: 'web', Peer: eastName, Permissions }])
    await until('the path is gated', async () => (await get('/admin')) === 403)
    t.match(await told('/admin'), ['deny token-needed', /asks for a token: jwt-provider\/staff: the request carries no token/])
    t.equal(await get('/'), 200, 'the rest is not')
    t.match(await told('/'), ['allow', /permission 2 allows it/])
    const stranger = issuer().bearer({ role: 'admin' })
    for (const [headers, status, outcome, text] of [
      [bearer({ role: 'admin' }), 200, 'allow', /permission 0 allows it/],
      [bearer({ role: 'guest' }), 403, 'deny token-needed', /the claim role is not "admin"/],
      [stranger, 403, 'deny token-needed', /is signed by no key of the provider/],
    ] as const) {
      t.equal(await get('/admin', headers), status)
      t.match(await told('/admin', headers), [outcome, text])
    }
    await scene.allow('web', 'api')
    await until('no gate', async () => (await get('/admin')) === 200)
    t.match(await told('/admin'), ['allow', /allows it/])
  })

  await t.test('an instance far away serves while none in the zone is healthy', { skip: deepOnly }, async t => {
    const far = start(process.execPath, ['examples/routing/app.js', 'far', String(farPort)])
    t.teardown(() => far.stop())
    const Locality = { Region: 'us', Zone: 'b' }
    await east.api('PUT', '/v1/agent/service/register', {
      ID: 'far',
      Name: 'shop',
      Port: farPort,
      Locality,
      Connect: { SidecarService: {} },
    })
    const sidecar = await east.proxy('far', 'sidecar', '--for', 'far')
    const tier = async () =>
      /^isthmus_proxy_locality_tier\{upstream="shop[^}]*\} (\d)$/m.exec((await call(east.adminPort('web'), '/metrics')).text)?.[1]
    const endpoints = async () => (await east.api('GET', '/v1/health/connect/shop?passing')).json as unknown[]
    await until('both are healthy', async () => (await endpoints()).length === 2)
    t.same(new Set(await everyone(40, () => asked('/'))), new Set(['shop']))
    t.equal(await tier(), '0')
    await east.api('PUT', '/v1/agent/service/maintenance/shop?enable=true&reason=test')
    await settles('the far one serves', '/', 'far')
    t.same(new Set(await everyone(40, () => asked('/'))), new Set(['far']))
    t.equal(await tier(), '2')
    await east.api('PUT', '/v1/agent/service/maintenance/shop?enable=false')
    await until('both are healthy', async () => (await endpoints()).length === 2)
    t.equal(await asked('/'), 'far', 'the zone is not trusted at once')
    await east.api('PUT', '/v1/agent/service/deregister/far')
    await settles('the near one serves', '/', 'shop')
    await sidecar.stop()
  })

  await t.test('names lead to services of a peer, and on inside it', async t => {
    const seen = async (port: number, path: string): Promise<Partial<Seen> | number> => {
      const { status, json } = await call(port, path, { timeoutMs: 2000 })
      return status === 200 ? (json as Seen) : status
    }
    const reaches = (port: number, path: string, url: string) =>
      until(`${path} arrives as ${url}`, async () => ((await seen(port, path).catch(() => 0)) as Partial<Seen>).url === url)
    await write(east, 'service-defaults', 'kiosk', { Protocol: 'http' })
    await write(east, 'service-resolver', 'kiosk', { Redirect: toApi })
    await reaches(kioskPort, '/redirected', '/redirected')

    await east.api('DELETE', '/v1/config/service-resolver/kiosk')
    const RequestHeaders = { Set: { 'x-routed': 'yes' } }
    const Routes = [{ Match: { HTTP: { PathPrefix: '/v2' } }, Destination: { ...toApi, PrefixRewrite: '/', RequestHeaders } }]
    await write(east, 'service-router', 'kiosk', { Routes })
    await reaches(kioskPort, '/v2/routed?a=b', '/routed?a=b')
    t.match(await seen(kioskPort, '/v2/x'), { app: 'api', url: '/x', headers: { 'x-routed': 'yes' } })
    t.equal(await seen(kioskPort, '/elsewhere'), 503, 'of kiosk itself there is no instance')
    await write(east, 'service-resolver', 'kiosk', { Failover: { '*': { Targets: [toApi] } } })
    await reaches(kioskPort, '/elsewhere', '/elsewhere')
    const { json } = await east.api('GET', '/v1/discovery-chain/kiosk')
    t.match(json, {
      Chain: {
        StartNode: 'router:kiosk.default.default',
        Nodes: { 'resolver:kiosk.default.default.east': { Resolver: { Failover: { Targets: ['api.default.default.external.west'] } } } },
      },
    })

    await write(west, 'service-defaults', 'front', { Protocol: 'http' })
    await write(west, 'service-resolver', 'front', { Redirect: { Service: 'api' } })
    await scene.export(['api', 'db', 'front'])
    await reaches(frontPort, '/through', '/through')

    // Requests that must be looked at end at the gateway; who called is known all the same.
    await west.api('DELETE', '/v1/config/service-resolver/front')
    const inside = [{ Match: { HTTP: { PathPrefix: '/v3' } }, Destination: { Service: 'api', PrefixRewrite: '/', RequestHeaders } }]
    await write(west, 'service-router', 'front', { Routes: inside })
    await reaches(frontPort, '/v3/inside', '/inside')
    const told = (await seen(frontPort, '/v3/x')) as Seen
    t.match(told, { url: '/x', headers: { 'x-routed': 'yes' } })
    t.match(told.headers['x-forwarded-client-cert'], /^By=[^,]*\/gateway\/mesh\/dc\/west;[^,]*URI=spiffe:\/\/[^,]*\/dc\/east\/svc\/web,/)
    t.equal(await seen(frontPort, '/elsewhere'), 503, 'of front itself there is no instance')
    await scene.intentions('api', [{ Name: 'web', Peer: eastName, Action: 'deny' }])
    await until('the intentions of where it leads decide', async () => (await seen(frontPort, '/v3/').catch(() => 0)) === 403)
    await scene.allow('web', 'api')
    await until('it is allowed again', async () => (await seen(frontPort, '/v3/').catch(() => 0)) !== 403)
  })

  await t.test('a service dies: the peer takes over, and gives back', async t => {
    await app.stop()
    startShop(slowMs)
    // A check may have missed it while it was away: until that is known, and past.
    await pause(checkMs.interval + checkMs.timeout)
    await settles('the slower shop answers', '/', 'shop')
    await write(east, 'service-resolver', 'shop', { Failover: { '*': { Targets: [toApi] } } })
    await until('the chain has its failover', async () => {
      const { text } = await call(east.adminPort('web'), '/metrics')
      return /isthmus_proxy_failover\w*\{[^}]*shop/.test(text)
    })
    const own = { outcome: 'allow', resolver: [/leads to shop$/], by: ['service-resolver/shop'] }
    const peered = { outcome: 'unknown exporter-decides', resolver: [/has failed over to api@west$/], by: ['service-resolver/shop'] }
    const explained = (what: string, wanted: typeof own) =>
      until(what, async () => {
        const { outcome, resolver } = await shop()
        return outcome === wanted.outcome && wanted.resolver[0]!.test(resolver[0] ?? '')
      })
    await explained('why: the shop is well', own)
    t.match(await shop(), own)
    const since: Record<string, number> = {}
    let last = ''
    const traffic = new PacedTraffic({
      httpPorts: [entrance],
      pace,
      isRight: ({ status, json }) => {
        if (status !== 200) return false
        const who = (json as { app: string }).app
        if (who !== last) since[who] = performance.now()
        last = who
        return true
      },
    })
    t.teardown(() => traffic.stop())
    t.ok(await traffic.settled())
    t.equal(last, 'shop')

    const dies = async (what: string, kill: () => Promise<void>) => {
      // The traffic has settled in step with the checks: between two of them is where it costs something.
      await pause(100)
      const killedMs = performance.now()
      let underWay = 0
      const dying = await traffic.during(
        what,
        async mine => {
          const before = traffic.underWay
          await kill()
          // Until it has ended it may be asked.
          underWay = before + mine.sent
        },
        knownMs,
      )
      const later = await traffic.during('the peer alone', () => pause(1000))
      t.equal(last, 'api')
      const tookOverMs = Math.round(since['api']! - killedMs)
      t.comment(JSON.stringify({ what, underWay, tookOverMs, dying: brief(dying), later: brief(later) }))
      t.ok(dying.failed.length <= underWay, `${dying.failed.length} lost, ${underWay} were under way`)
      t.same(later.failed, [], 'nothing is lost any more')
      await explained(`why: ${what}`, peered)
      t.match(await shop(), peered)
    }
    const comesBack = async (bring: () => Promise<unknown>) => {
      const beganMs = performance.now()
      const back = await traffic.during('the service is back', async () => {
        await bring()
        await until('the shop answers again', () => Promise.resolve(last === 'shop'), 30_000)
      })
      t.comment(JSON.stringify({ backAfterMs: Math.round(since['shop']! - beganMs), back: brief(back) }))
      t.same(back.failed, [], 'nothing is lost on the way back')
      t.match(await shop(), own)
    }

    // Its sidecar is still there, and says that it reaches nobody.
    await dies('the app dies', () => app.stop('SIGKILL'))
    if (!isDeep) return
    await comesBack(async () => startShop(slowMs))
    await dies('app and sidecar die', async () => {
      await Promise.all([app.stop('SIGKILL'), east.proxies.get('shop')!.stop('SIGKILL')])
    })
  })
})

function everyone<T>(count: number, each: (i: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, (_, i) => each(i)))
}

function brief({ sent, failed, lastFailedMs, slowestMs }: Stretch): object {
  return { sent, lost: failed.length, lastLostMs: lastFailedMs, slowestMs, first: failed.slice(0, 3) }
}

/** Whoever signs tokens: its key set in base64, and the header that carries a token of it. */
function issuer(): { jwks: string; bearer: (claims: object) => { authorization: string } } {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  return {
    jwks: Buffer.from(JSON.stringify({ keys: [publicKey.export({ format: 'jwk' })] })).toString('base64'),
    bearer: claims => {
      const data = `${part({ alg: 'ES256' })}.${part({ iss: 'isthmus-test', ...claims })}`
      const signature = sign('sha256', Buffer.from(data), { key: privateKey, dsaEncoding: 'ieee-p1363' })
      return { authorization: `Bearer ${data}.${signature.toString('base64url')}` }
    },
  }
}

function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}
