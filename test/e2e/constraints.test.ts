// What cluster peering does not do, each with an error that says so: peering with oneself, oversized services, intentions with a peer
// by CLI, KV, ACLs and forwarded requests of a peer, and every bad token.
import t from 'tap'
import { until } from '../support/processes.ts'
import { eastName, startTwoClusters, westName } from '../support/two-clusters.ts'

t.test('the constraints have clear errors', async t => {
  const scene = await startTwoClusters({ controlPlaneOnly: true })
  t.teardown(() => scene.stop())
  const { east, west } = scene

  await t.test('peering with oneself', async t => {
    const token = ((await east.api('POST', '/v1/peering/token', { PeerName: 'myself' })).json as { PeeringToken: string }).PeeringToken
    const answer = await east.api('POST', '/v1/peering/establish', { PeerName: 'me', PeeringToken: token }, true)
    t.equal(answer.status, 500)
    t.match(
      answer.text,
      /^cannot create a peering within the same cluster "server\.east\.peering\.[0-9a-f-]+\.consul"\. Refer to the `exported-services` documentation if you want to export between partitions without peering/,
    )
    await east.api('DELETE', '/v1/peering/myself')
  })

  await t.test('partitions', async t => {
    const answer = await east.api('POST', '/v1/peering/token', { PeerName: 'other', Partition: 'team-a' }, true)
    t.match(answer, { status: 500, text: /^Partitions are a Consul Enterprise feature/ })
  })

  await t.test('a service over 8 MB is not exported, both sides say so, and no other is hurt', async t => {
    const meta = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`k${i}`, 'v'.repeat(500)]))
    for (let i = 0; i < 300; i += 1) {
      await west.api('PUT', '/v1/catalog/register', {
        Node: `big-${i}`,
        Address: '127.0.0.1',
        Service: { ID: `big-${i}`, Service: 'big', Port: 1, Meta: meta },
      })
    }
    await west.api('PUT', '/v1/agent/service/register', { Name: 'small', Port: 1 })
    await scene.export(['big', 'small'])
    await until(
      'small crosses',
      async () => ((await east.api('GET', `/v1/health/service/small?peer=${westName}`)).json as unknown[]).length === 1,
      15_000,
    )
    t.same((await east.api('GET', `/v1/health/service/big?peer=${westName}`)).json, [])
    const warnings = async (cluster: typeof east, name: string) =>
      ((await cluster.api('GET', `/v1/peering/${name}`)).json as { Warnings: string[] }).Warnings
    t.match(
      await warnings(west, eastName),
      [/^big is not exported: its definitions take \d+ bytes and a message at most 8388608;/],
      'the exporter says so',
    )
    t.match(await warnings(east, westName), [/^exported by the peer, yet no instance came: big;/], 'the importer says so')
    t.match((await west.cli('peering', 'read', '--name', eastName)).stdout, /Warnings:\n {4}big is not exported/)
    await west.api('PUT', '/v1/agent/service/deregister/small')
    await until(
      'the peering still works',
      async () => ((await east.api('GET', `/v1/health/service/small?peer=${westName}`)).json as unknown[]).length === 0,
    )
  })

  await t.test('an intention that names a peer is written as a config entry', async t => {
    const made = await west.cli('intention', 'create', `peer:${eastName}/web`, 'api')
    t.equal(made.code, 1)
    t.match(made.stderr, /service-intentions/)
    t.match(made.stderr, /config write/)
  })

  await t.test('KV, ACLs and forwarded requests of a peer', async t => {
    const forwarded = await east.api('GET', '/v1/catalog/nodes?dc=west', undefined, true)
    t.match(forwarded, { status: 500, text: /^No path to datacenter/ })
    t.match((await east.api('GET', `/v1/kv/a?peer=${westName}`, undefined, true)).status, 400)
    t.match(await east.api('GET', '/v1/acl/tokens', undefined, true), { status: 401, text: /^ACL support disabled/ })
    await west.api('PUT', '/v1/kv/only-in-west', 'x')
    t.equal((await east.api('GET', '/v1/kv/only-in-west', undefined, true)).status, 404)
  })

  await t.test('every bad token', async t => {
    const good = ((await west.api('POST', '/v1/peering/token', { PeerName: 'spare' })).json as { PeeringToken: string }).PeeringToken
    const edit = (change: Record<string, unknown>) =>
      Buffer.from(JSON.stringify({ ...(JSON.parse(Buffer.from(good, 'base64').toString()) as object), ...change })).toString('base64')
    const cases: [string, Record<string, unknown>, number, RegExp][] = [
      ['no name', { PeeringToken: good }, 400, /^PeerName is required in the payload when establishing a peering\./],
      ['no token', { PeerName: 'x' }, 400, /^PeeringToken is required in the payload when establishing a peering\./],
      ['bad base64', { PeerName: 'x', PeeringToken: '%%%' }, 500, /^failed to decode token: illegal base64 data at input byte 0/],
      [
        'bad JSON',
        { PeerName: 'x', PeeringToken: Buffer.from('hello').toString('base64') },
        500,
        /^invalid character 'h' looking for beginning of value/,
      ],
      ['bad CA', { PeerName: 'x', PeeringToken: edit({ CA: ['junk'] }) }, 500, /^peering token invalid CA: no PEM-encoded data found/],
      [
        'no addresses',
        { PeerName: 'x', PeeringToken: edit({ ServerAddresses: [], ManualServerAddresses: null }) },
        500,
        /^peering token server addresses value is empty/,
      ],
      [
        'bad address',
        { PeerName: 'x', PeeringToken: edit({ ServerAddresses: ['1.2.3.4:0'] }) },
        500,
        /^1\.2\.3\.4:0 is not a valid peering server address/,
      ],
      ['no server name', { PeerName: 'x', PeeringToken: edit({ ServerName: '' }) }, 500, /^peering token server name value is empty/],
      ['no peer id', { PeerName: 'x', PeeringToken: edit({ PeerID: '' }) }, 500, /^peering token peer ID value is empty/],
      [
        'bad name',
        { PeerName: 'P1', PeeringToken: good },
        500,
        /^P1 is not a valid peer name: a valid peering name must consist of lower case/,
      ],
      [
        'wrong secret',
        { PeerName: 'x', PeeringToken: edit({ EstablishmentSecret: '00000000-0000-0000-0000-000000000000' }) },
        403,
        /^a new peering token must be generated: invalid peering establishment secret/,
      ],
      [
        'unreachable',
        { PeerName: 'x', PeeringToken: edit({ ServerAddresses: ['127.0.0.1:1'] }) },
        503,
        /failed to exchange peering secret through address "127\.0\.0\.1:1"/,
      ],
    ]
    for (const [what, body, status, text] of cases) {
      const answer = await east.api('POST', '/v1/peering/establish', body, true)
      t.match(answer, { status, text }, what)
    }
    const acceptor = await west.api(
      'POST',
      '/v1/peering/establish',
      { PeerName: eastName, PeeringToken: edit({ ServerName: 'server.x.peering.y.consul' }) },
      true,
    )
    t.match(acceptor, {
      status: 500,
      text: /^cannot create peering with name: "partner-east"; there is an existing peering expecting to be dialed/,
    })
    const again = await east.api('POST', '/v1/peering/token', { PeerName: westName }, true)
    t.match(again, { status: 500, text: /^cannot create peering with name: "west"; there is already an established peering/ })
  })
})
