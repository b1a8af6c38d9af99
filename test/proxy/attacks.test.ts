/** Attacks on the mTLS doors, each by its name, with openssl's own client; and what an honest client of every kind gets. */
import { spawn } from 'node:child_process'
import { connect as connectTcp } from 'node:net'
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls'
import { boolean, sample, tuple, uint8Array } from 'fast-check'
import t, { type Test } from 'tap'
import { freePorts } from '../support/free-ports.ts'
import type { Minted } from '../support/mint.ts'
import {
  apiInternalSni,
  apiSni,
  call,
  converse,
  dbSni,
  eastDomain,
  gatewaySelf,
  sidecarSelf,
  source,
  startScene,
  until,
  westDomain,
  westResources,
  webId,
} from '../support/proxy-scene.ts'
import { startGateway } from '../../src/proxy/mesh-gateway.ts'
import { silentLogger } from '../../src/lib/log.ts'
import { names } from '../../src/mesh/snapshot.ts'
import { meshGatewayId, serviceId } from '../../src/mesh/spiffe.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'

/** Everything that `openssl s_client` says when it sends one request. */
function sClient(port: number, args: string[], request = 'GET /attack HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, '-quiet', '-ign_eof', ...args])
    let said = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        said += chunk.toString()
      })
    }
    child.stdin.on('error', () => {})
    child.stdin.end(request)
    child.on('error', reject)
    child.on('close', () => resolve(said))
  })
}

const leafArgs = (leaf: Minted, sni = apiSni) => [
  '-cert',
  leaf.certPath,
  '-cert_chain',
  leaf.certPath,
  '-key',
  leaf.keyPath,
  '-servername',
  sni,
]

t.test('attacks', async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const { mint, eastRoot, westRoot, apiApp } = scene
  const gateway = () => scene.gateway.port('wan')!
  const sidecar = () => scene.api.port('public')!
  const reached = () => apiApp.seen.length
  /** Nothing of the answer of the app, and the app was not reached. */
  const refused = async (t: Test, port: number, args: string[]) => {
    const before = reached()
    const said = await sClient(port, args)
    t.notMatch(said, /HTTP\/1\.1 200|api GET/)
    t.equal(reached(), before, 'the app was not reached')
    return said
  }
  const web = await mint.leaf(eastRoot, { san: `URI:${webId}` })

  await t.test(
    'an honest client is served with TLS 1.2 and 1.3, with h2 in its offer, without ALPN, with an unknown offer, in upper case',
    async t => {
      const { keyPath, certPath } = web
      const base = ['-cert', certPath, '-key', keyPath]
      const variants = [
        ['-tls1_2', '-servername', apiSni],
        ['-tls1_2', '-cipher', 'ECDHE-ECDSA-AES128-GCM-SHA256', '-servername', apiSni],
        ['-tls1_3', '-servername', apiSni],
        ['-alpn', 'h2,http/1.1', '-servername', apiSni],
        ['-alpn', 'something-else', '-servername', apiSni],
        ['-servername', apiSni.toUpperCase()],
      ]
      for (const variant of variants) t.match(await sClient(gateway(), [...base, ...variant]), /HTTP\/1\.1 200 OK/, variant.join(' '))
    },
  )

  await t.test('no client certificate: refused', async t => {
    t.match(await refused(t, gateway(), ['-servername', apiSni]), /alert certificate required|alert handshake failure/)
    await refused(t, sidecar(), ['-tls1_2', '-servername', apiSni])
  })

  await t.test('a leaf of an unknown CA that claims a known trust domain: refused', async t => {
    const stranger = await mint.root(eastDomain)
    await refused(t, gateway(), leafArgs(await mint.leaf(stranger, { san: `URI:${webId}` })))
  })

  await t.test('a leaf of peer B that claims the trust domain of peer A: refused', async t => {
    // West accepts both roots in the handshake, so Node alone would call this leaf authorized.
    const forged = await mint.leaf(westRoot, { san: `URI:${webId}` })
    await refused(t, gateway(), leafArgs(forged))
    const local = await mint.leaf(eastRoot, { san: `URI:${serviceId(westDomain, 'west', 'web')}` })
    await refused(t, sidecar(), leafArgs(local))
  })

  await t.test('a leaf signed by a leaf: refused', async t => {
    const forged = await mint.leaf(web, { san: `URI:${webId}` })
    await refused(t, gateway(), leafArgs(mint.chained(forged, web, eastRoot)))
  })

  await t.test('a leaf with two identities, and one that is a CA: refused', async t => {
    await refused(t, gateway(), leafArgs(await mint.leaf(eastRoot, { san: `URI:${webId},URI:spiffe://${eastDomain}/x` })))
    await refused(t, gateway(), leafArgs(await mint.leaf(eastRoot, { san: `URI:${webId}`, ca: true })))
  })

  await t.test('a caller whom no intention names: 403 of 19 bytes', async t => {
    const other = await mint.leaf(eastRoot, { san: `URI:${serviceId(eastDomain, 'east', 'other')}` })
    const said = await refused(t, gateway(), leafArgs(other))
    t.match(said, /HTTP\/1\.1 403 Forbidden\r\n/)
    t.match(said, /content-length: 19\r\n[\s\S]*\r\n\r\nRBAC: access denied$/i)
  })

  await t.test('an identity of no known form: 403', async t => {
    t.match(await refused(t, gateway(), leafArgs(await mint.leaf(eastRoot, { san: `URI:spiffe://${eastDomain}/odd` }))), /HTTP\/1\.1 403/)
  })

  await t.test('XFCC from a caller that is no gateway of ours: replaced, not believed', async t => {
    const other = await mint.leaf(eastRoot, { san: `URI:${serviceId(eastDomain, 'east', 'other')}` })
    const request = (name: string) => `GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${name}: By=x;URI=${webId}\r\n\r\n`
    t.match(await sClient(gateway(), leafArgs(other), request('x-forwarded-client-cert')), /HTTP\/1\.1 403/)
    t.match(await sClient(gateway(), leafArgs(web), request('X_Forwarded_Client_Cert')), /HTTP\/1\.1 200/)
    const { headers } = apiApp.seen.at(-1)!
    t.equal(headers['x_forwarded_client_cert'], undefined)
    t.notMatch(headers['x-forwarded-client-cert'], /By=x/)
    const theirs = await mint.leaf(eastRoot, { san: `URI:${meshGatewayId(eastDomain, 'east')}` })
    t.match(
      await sClient(gateway(), leafArgs(theirs), request('x-forwarded-client-cert')),
      /HTTP\/1\.1 403/,
      'a gateway of the peer speaks for nobody',
    )
  })

  await t.test('our own gateway speaks for a caller of a peer, who is judged by the intentions', async t => {
    const ours = await mint.leaf(westRoot, { san: `URI:${meshGatewayId(westDomain, 'west')}` })
    const say = (xfcc: string) => sClient(sidecar(), leafArgs(ours), `GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n${xfcc}\r\n`)
    t.match(await say(`x-forwarded-client-cert: By=g;Hash=00;URI=${webId}\r\n`), /HTTP\/1\.1 200/)
    t.match(
      apiApp.seen.at(-1)!.headers['x-forwarded-client-cert'],
      new RegExp(`^By=g;Hash=00;URI=${webId},By=.*;URI=${meshGatewayId(westDomain, 'west')}$`),
    )
    t.match(await say(`x-forwarded-client-cert: By=g;URI=${serviceId(eastDomain, 'east', 'other')}\r\n`), /HTTP\/1\.1 403/)
    t.match(await say(`x-forwarded-client-cert: URI=${webId}\r\n`), /HTTP\/1\.1 403/, 'nothing before the URI')
    t.match(
      await say(
        `x-forwarded-client-cert: By=g;URI=${serviceId(eastDomain, 'east', 'other')}\r\nx-forwarded-client-cert: By=g;URI=${webId}\r\n`,
      ),
      /HTTP\/1\.1 403/,
    )
    t.match(await say(''), /HTTP\/1\.1 403/, 'it has no rights of its own')
  })

  await t.test('an SNI that is not exported, or none: a TCP reset and not one byte', async t => {
    for (const args of [
      ['-servername', `secret.default.default.partner-east.external.${westDomain}`],
      ['-noservername'],
      ['-servername', apiSni.replace('partner-east', 'west')],
    ]) {
      t.match(
        await sClient(gateway(), ['-cert', web.certPath, '-key', web.keyPath, ...args]),
        /read:errno=104|Connection reset by peer|write:errno=104/,
        args.join(' '),
      )
    }
  })

  await t.test('an internal SNI at the WAN address: reset, unless the operator asked for it', async t => {
    t.match(await sClient(gateway(), leafArgs(web, apiInternalSni)), /errno=104|reset by peer/)
    const open = await startGateway({ proxyId: 'gateway', agent: { url: scene.west.url }, logger: silentLogger(), lanOnWan: true })
    t.teardown(() => open.close())
    await open.ready()
    t.match(await sClient(open.port('wan')!, leafArgs(web, apiInternalSni)), /HTTP\/1\.1 200/)
  })

  await t.test('internal names are served on a LAN address of its own, and not on the WAN one', async t => {
    const proxyId = 'two-doors'
    const [wanPort] = (await freePorts(1)) as [number]
    scene.west.tell(proxyId, [
      ['self', proxyId, gatewaySelf({ proxyId, wan: { address: '127.0.0.1', port: wanPort } })],
      ['roots', names.localRoots, { trustDomain: westDomain, peer: '', exportedPartition: '', pems: [westRoot.certPem] }],
      ['internal', apiInternalSni, { sni: apiInternalSni, service: 'api', peer: '', endpoints: 'api' }],
      ['exported', apiSni, { sni: apiSni, service: 'api', peer: 'partner-east', endpoints: 'api' }],
      ['endpoints', 'api', { endpoints: [{ id: 'api', address: '127.0.0.1', port: sidecar(), weight: 1, healthy: true }] }],
    ])
    const both = await startGateway({ proxyId, agent: { url: scene.west.url }, logger: silentLogger() })
    t.teardown(() => both.close())
    await both.ready()
    t.match(await sClient(both.port('lan')!, leafArgs(web, apiInternalSni)), /HTTP\/1\.1 200/)
    t.match(await sClient(both.port('lan')!, leafArgs(web)), /HTTP\/1\.1 200/)
    t.match(await sClient(wanPort, leafArgs(web)), /HTTP\/1\.1 200/)
    t.match(await sClient(wanPort, leafArgs(web, apiInternalSni)), /errno=104|reset by peer/)
  })

  await t.test('TLS 1.1: refused', async t => {
    t.match(await refused(t, gateway(), [...leafArgs(web), '-tls1_1', '-cipher', 'DEFAULT@SECLEVEL=0']), /alert protocol version/)
  })

  await t.test('no session is resumed', async t => {
    const options: ConnectionOptions = {
      host: '127.0.0.1',
      port: gateway(),
      servername: apiSni,
      cert: web.certPem,
      key: web.keyPem,
      rejectUnauthorized: false,
    }
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      const sessions: Buffer[] = []
      const first = connectTls({ ...options, maxVersion })
      first.on('session', session => sessions.push(session))
      first.on('error', () => {})
      await new Promise(resolve => first.once('secureConnect', resolve))
      first.write('GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
      await new Promise(resolve => first.resume().once('close', resolve))
      const session = sessions.at(-1) ?? first.getSession()
      const again: TLSSocket = connectTls({ ...options, maxVersion, ...(session ? { session } : {}) })
      again.on('error', () => {})
      await new Promise(resolve => again.once('secureConnect', resolve))
      t.equal(again.isSessionReused(), false, maxVersion)
      again.destroy()
    }
  })

  await t.test('more connections than allowed: closed before TLS', async t => {
    const self = sidecarSelf('west', 'api', 'http', apiApp.port, { maxInboundConnections: 1 })
    scene.west.tell('api-sidecar-proxy', westResources(self, scene, [source('web', 'allow', 'partner-east')]))
    await until(async () => (await call(scene.api.admin!.port, '/plan')).body.includes('"maxInboundConnections": 1'))
    await until(async () =>
      (await call(scene.api.admin!.port, '/metrics')).body.includes('isthmus_proxy_connections_open{door="inbound",component="sidecar"} 0'),
    )
    const holder = connectTcp({ port: sidecar(), host: '127.0.0.1' })
    await new Promise(resolve => holder.once('connect', resolve))
    await until(async () =>
      (await call(scene.api.admin!.port, '/metrics')).body.includes('isthmus_proxy_connections_open{door="inbound",component="sidecar"} 1'),
    )
    t.strictSame((await converse(sidecar(), 'x', false)).heard, '')
    holder.destroy()
    scene.west.tell(
      'api-sidecar-proxy',
      westResources(sidecarSelf('west', 'api', 'http', apiApp.port), scene, [source('web', 'allow', 'partner-east')]),
    )
    await until(async () => /200/.test(await sClient(gateway(), leafArgs(web))))
  })

  await t.test('a denied caller of bytes: TLS completes, and its first byte closes', async t => {
    const other = await mint.leaf(eastRoot, { san: `URI:${serviceId(eastDomain, 'east', 'other')}` })
    const options = {
      host: '127.0.0.1',
      port: gateway(),
      servername: dbSni,
      cert: other.certPem,
      key: other.keyPem,
      rejectUnauthorized: false,
    }
    const socket = connectTls(options)
    await new Promise(resolve => socket.once('secureConnect', resolve))
    let heard = ''
    let ended = false
    socket.on('data', (chunk: Buffer) => (heard += chunk.toString()))
    socket.on('end', () => (ended = true))
    await new Promise(resolve => setTimeout(resolve, 100))
    t.equal(ended, false)
    socket.write('x')
    await new Promise(resolve => socket.once('close', resolve))
    t.strictSame([heard, ended, scene.dbApp.sockets.size], ['', true, 0])
  })

  const openAt = async (port: number, door: string) =>
    Number(new RegExp(`connections_open\\{door="${door}",component="\\w+"\\} (\\d+)`).exec((await call(port, '/metrics')).body)?.[1])

  await t.test('garbage at the gateway and at the sidecar: no crash, and no socket stays', async t => {
    const hello = await new Promise<Buffer>(resolve => {
      const capture = connectTls({ host: '127.0.0.1', port: gateway(), servername: apiSni, rejectUnauthorized: false })
      capture.on('error', () => {})
      // The bytes themselves come from sni-peek's own test; here any well-formed beginning will do.
      capture.once('close', () => resolve(Buffer.from('16030100c4010000c00303', 'hex')))
    })
    const send = (port: number, bytes: Uint8Array, half: boolean) =>
      new Promise<void>(resolve => {
        const socket = connectTcp({ port, host: '127.0.0.1' }, () => {
          if (half) socket.end(bytes)
          else {
            socket.write(bytes)
            setTimeout(() => socket.destroy(), 5)
          }
        })
        socket.on('error', () => {})
        socket.on('data', () => {})
        socket.on('close', () => resolve())
      })
    const runs = deep ? 25_000 : 500
    for (const port of [gateway(), sidecar()]) {
      const inputs = sample(tuple(uint8Array({ maxLength: 400 }), boolean(), boolean()), runs)
      for (let at = 0; at < runs; at += 50) {
        await Promise.all(
          inputs.slice(at, at + 50).map(([bytes, asTls, half]) => send(port, asTls ? Buffer.concat([hello, bytes]) : bytes, half)),
        )
      }
    }
    await until(async () => (await openAt(scene.gateway.admin!.port, 'gateway')) === 0)
    await until(async () => (await openAt(scene.api.admin!.port, 'inbound')) === 0)
    t.match(await sClient(gateway(), leafArgs(web)), /HTTP\/1\.1 200/)
  })

  await t.test('garbage inside TLS from a caller with a leaf: never reaches the app as a request, and no socket stays', async t => {
    const options = {
      host: '127.0.0.1',
      port: sidecar(),
      servername: apiSni,
      cert: web.certPem,
      key: web.keyPem,
      rejectUnauthorized: false,
    }
    const before = reached()
    const runs = deep ? 2000 : 60
    const inputs = sample(uint8Array({ minLength: 1, maxLength: 300 }), runs)
    for (let at = 0; at < runs; at += 10) {
      await Promise.all(
        inputs.slice(at, at + 10).map(
          bytes =>
            new Promise<void>(resolve => {
              const socket = connectTls(options, () => socket.end(Buffer.concat([bytes, Buffer.from('\r\n\r\n')])))
              socket.on('error', () => {})
              socket.resume().on('close', () => resolve())
            }),
        ),
      )
    }
    t.equal(reached(), before)
    await until(async () => (await openAt(scene.api.admin!.port, 'inbound')) === 0)
  })
})
