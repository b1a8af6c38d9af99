// Attacks with `openssl s_client` on a real sidecar and a real gateway of west, which exports api to two peers, east and south. The
// attacker may hold a real leaf of east, and the CA key of south.
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { keys } from '../../src/agent/catalog/keys.ts'
import { openEmbeddedStore } from '../../src/agent/store/embedded.ts'
import { silentLogger } from '../../src/lib/log.ts'
import { Mint, type Minted } from '../support/mint.ts'
import { ClusterProcess, until } from '../support/processes.ts'
import { eastName, startTwoClusters } from '../support/two-clusters.ts'

interface Said {
  /** Everything that s_client printed. */
  text: string
  /** Status of the HTTP answer, if one came. */
  status: string | undefined
}

/** One request through `openssl s_client`. */
function sClient(port: number, ...args: string[]): Promise<Said> {
  return new Promise(resolve => {
    const child = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, '-ign_eof', ...args], { stdio: ['pipe', 'pipe', 'pipe'] })
    const chunks: Buffer[] = []
    const patience = setTimeout(() => child.kill(), 5000)
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => chunks.push(chunk))
    child.stdin.on('error', () => undefined)
    child.stdin.write('GET /attack HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n')
    child.on('close', () => {
      clearTimeout(patience)
      const text = Buffer.concat(chunks).toString('latin1')
      resolve({ text, status: /HTTP\/1\.1 (\d{3})/.exec(text)?.[1] })
    })
  })
}

t.test('a sidecar and a gateway under attack', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const south = await ClusterProcess.start('south')
  t.teardown(() => south.stop())
  const mint = new Mint()
  t.teardown(() => mint.remove())

  const token = (await west.api('POST', '/v1/peering/token', { PeerName: 'south' })).json as { PeeringToken: string }
  await south.api('POST', '/v1/peering/establish', { PeerName: 'west', PeeringToken: token.PeeringToken })
  await west.api('PUT', '/v1/config', {
    Kind: 'exported-services',
    Name: 'default',
    Services: [{ Name: 'api', Consumers: [{ Peer: eastName }, { Peer: 'south' }] }],
  })
  await scene.intentions('api', [
    { Name: 'web', Peer: eastName, Action: 'allow' },
    { Name: 'web', Peer: 'south', Action: 'allow' },
  ])

  const domain = async (cluster: ClusterProcess) =>
    ((await cluster.api('GET', '/v1/connect/ca/roots')).json as { TrustDomain: string }).TrustDomain
  const [eastDomain, westDomain, southDomain] = [await domain(east), await domain(west), await domain(south)]
  const held = (await east.api('GET', '/v1/agent/connect/ca/leaf/web')).json as { CertPEM: string; PrivateKeyPEM: string }
  const web = onDisk(mint, 'east-web', held.CertPEM, held.PrivateKeyPEM)
  const webUri = `URI:spiffe://${eastDomain}/ns/default/dc/east/svc/web`
  const sidecar = ((await west.api('GET', '/v1/agent/service/api-sidecar-proxy')).json as { Port: number }).Port
  const gateway = scene.westGatewayPort
  const externalSni = `api.default.default.${eastName}.external.${westDomain}`
  const show = (leaf: Minted) => ['-cert', leaf.certPath, '-cert_chain', leaf.certPath, '-key', leaf.keyPath]
  const southRoot = await authorityOf(south, mint)

  for (const version of ['-tls1_2', '-tls1_3']) {
    await t.test(`a good leaf over ${version.slice(1)}: accepted by the sidecar and through the gateway`, async t => {
      t.equal((await sClient(sidecar, version, ...show(web))).status, '200')
      t.equal((await sClient(gateway, version, '-servername', externalSni, ...show(web))).status, '200')
    })
  }

  await t.test('the leaf of south for its own web is good too, so that its CA key is the real one', async t => {
    const leaf = await mint.leaf(southRoot, { san: `URI:spiffe://${southDomain}/ns/default/dc/south/svc/web` })
    await until('the bundle of south reached the sidecar', async () => (await sClient(sidecar, ...show(leaf))).status === '200')
    t.pass('accepted')
  })

  const refused: [string, () => Promise<string[]>][] = [
    ['no client certificate', async () => []],
    ['a leaf of a wrong CA', async () => show(await mint.leaf(await mint.root(eastDomain), { san: webUri }))],
    ['a leaf of peer south that claims the trust domain of peer east', async () => show(await mint.leaf(southRoot, { san: webUri }))],
    ['a leaf signed by a leaf', async () => show(mint.chained(await mint.leaf(web, { san: webUri }), web))],
    ['TLS 1.1', async () => ['-tls1_1', '-cipher', 'ALL:@SECLEVEL=0', ...show(web)]],
  ]
  for (const [what, args] of refused) {
    await t.test(`${what}: refused by the sidecar and through the gateway`, async t => {
      const attack = await args()
      const direct = await sClient(sidecar, ...attack)
      const through = await sClient(gateway, '-servername', externalSni, ...attack)
      t.equal(direct.status, undefined, direct.text.slice(-300))
      t.equal(through.status, undefined, through.text.slice(-300))
    })
  }

  const names: [string, string[]][] = [
    ['an unknown SNI', ['-servername', `nope.default.default.${eastName}.external.${westDomain}`]],
    ['no SNI', ['-noservername']],
    ['the SNI with the name that the importer gave', ['-servername', `api.default.default.west.external.${westDomain}`]],
    ['the SNI in the trust domain of the importer', ['-servername', `api.default.default.${eastName}.external.${eastDomain}`]],
    ['an SNI that is not exported', ['-servername', `db.default.default.${eastName}.external.${westDomain}`]],
    ['the internal SNI at the WAN address', ['-servername', `api.default.west.internal.${westDomain}`]],
  ]
  for (const [what, args] of names) {
    await t.test(`${what}: the gateway resets before TLS`, async t => {
      const { text, status } = await sClient(gateway, ...args, ...show(web))
      t.equal(status, undefined)
      t.match(text, /errno=104|Connection reset|write:errno|no peer certificate available/)
      t.notMatch(text, /BEGIN CERTIFICATE/, 'not a byte of TLS came back')
    })
  }

  await t.test('a session of a deleted peer is not resumed, and its leaf is refused', async t => {
    const session = join(mint.dir, 'session')
    const first = await sClient(sidecar, '-tls1_2', '-sess_out', session, ...show(web))
    t.equal(first.status, '200')
    const again = await sClient(sidecar, '-tls1_2', '-sess_in', session, ...show(web)).catch(() => undefined)
    t.notMatch(again?.text ?? '', /^Reused,/m, 'nothing is resumed while the peer is there')
    await west.api('DELETE', `/v1/peering/${eastName}`)
    const after = await until(
      'refused',
      async () => {
        const said = await sClient(sidecar, '-tls1_2', '-sess_in', session, ...show(web))
        return said.status === undefined && said
      },
      5000,
      50,
    )
    t.notMatch(after.text, /^Reused,/m)
    t.equal((await sClient(sidecar, '-tls1_3', ...show(web))).status, undefined, 'and not afresh either')
    t.equal((await sClient(gateway, '-servername', externalSni, ...show(web))).status, undefined)
  })
})

/** A certificate and its key where openssl finds them. */
function onDisk(mint: Mint, name: string, certPem: string, keyPem: string): Minted {
  const [certPath, keyPath] = [join(mint.dir, `${name}.pem`), join(mint.dir, `${name}.key`)]
  writeFileSync(certPath, certPem)
  writeFileSync(keyPath, keyPem)
  return { certPem, keyPem, certPath, keyPath }
}

/** Stops a cluster's agent and takes the key of its CA out of the store, as whoever owns that machine could. */
async function authorityOf(cluster: ClusterProcess, mint: Mint): Promise<Minted> {
  const roots = (await cluster.api('GET', '/v1/connect/ca/roots')).json as { ActiveRootID: string; Roots: { RootCert: string }[] }
  await cluster.agent.stop()
  const store = await openEmbeddedStore({ dir: join(cluster.directory, 'data'), logger: silentLogger() })
  try {
    const entry = await store.get(keys.caKey(roots.ActiveRootID))
    const text = Buffer.from(entry?.value ?? '').toString()
    const pem = /-----BEGIN [^"]+?-----END [A-Z ]+-----/.exec(text.replaceAll(String.raw`\n`, '\n'))?.[0]
    if (pem === undefined) throw new Error(`the store of ${cluster.datacenter} holds no CA key`)
    return onDisk(mint, 'south-ca', roots.Roots[0]!.RootCert, `${pem}\n`)
  } finally {
    await store.close()
  }
}
