/** Writes of config entries: identical ones, compare-and-set, and entries that would contradict each other. */
import t from 'tap'
import { parseConfigEntry, type ConfigEntry } from '../../../src/mesh/config-entry.ts'
import { catalogScene, type CatalogScene } from '../../support/catalog-scene.ts'

async function scene(t: import('tap').Test): Promise<CatalogScene> {
  const made = await catalogScene()
  t.teardown(() => made.close())
  return made
}

function entry(body: object): ConfigEntry {
  const parsed = parseConfigEntry(body)
  if (!parsed.ok) throw new Error(parsed.text)
  return parsed.value
}

const webDefaults = entry({ Kind: 'service-defaults', Name: 'web', Protocol: 'HTTP' })
const l7 = entry({
  Kind: 'service-intentions',
  Name: 'web',
  Sources: [{ Name: 'a', Permissions: [{ Action: 'allow', HTTP: { PathExact: '/' } }] }],
})

t.test('an entry is stored in its normal form and read back with its indexes', async t => {
  const { configEntries, tables, store } = await scene(t)
  t.equal(await configEntries.write(webDefaults), true)
  t.match(tables.configEntry('service-defaults', 'WEB'), {
    index: store.revision,
    value: { kind: 'service-defaults', name: 'web', protocol: 'http', createIndex: store.revision, modifyIndex: store.revision },
  })
  t.same(tables.configEntries('service-defaults').value.length, 1)
  t.same(tables.configEntries().value.length, 1)
  t.same(tables.configEntries('mesh').value, [])
})

t.test('an identical entry writes nothing, whatever its cas says', async t => {
  const { configEntries, store } = await scene(t)
  await configEntries.write(webDefaults)
  const { revision } = store
  t.equal(await configEntries.write(webDefaults), true)
  t.equal(await configEntries.write(webDefaults, 99_999), true)
  t.equal(store.revision, revision)
})

t.test('cas 0 only creates, another cas only replaces or deletes', async t => {
  const { configEntries, tables } = await scene(t)
  const grpc = entry({ Kind: 'service-defaults', Name: 'web', Protocol: 'grpc' })
  t.equal(await configEntries.write(webDefaults, 7), false)
  t.equal(await configEntries.write(webDefaults, 0), true)
  t.equal(await configEntries.write(grpc, 0), false)
  t.equal(await configEntries.write(grpc, tables.configEntry('service-defaults', 'web').value!.modifyIndex), true)
  t.equal(await configEntries.delete('service-defaults', 'web', 1), false)
  t.equal(await configEntries.delete('service-defaults', 'web', tables.configEntry('service-defaults', 'web').value!.modifyIndex), true)
  t.equal(await configEntries.delete('service-defaults', 'web', 5), true)
  t.equal(await configEntries.delete('service-defaults', 'web'), true)
})

t.test('a reader wakes for its own entry or kind', async t => {
  const { configEntries, tables } = await scene(t)
  await configEntries.write(webDefaults)
  const one = tables.configEntry('service-defaults', 'web')
  const kind = tables.configEntries('service-defaults')
  const mesh = tables.configEntry('mesh', 'mesh')
  await configEntries.write(entry({ Kind: 'service-defaults', Name: 'db', Protocol: 'tcp' }))
  t.equal(await tables.waitFor(one.topics, one.index, 0), false)
  t.equal(await tables.waitFor(mesh.topics, mesh.index, 0), false)
  t.equal(await tables.waitFor(kind.topics, kind.index, 0), true)
})

t.test('a mesh entry is found under the name mesh', async t => {
  const { configEntries, tables } = await scene(t)
  await configEntries.write(entry({ Kind: 'mesh', Peering: { PeerThroughMeshGateways: true } }))
  t.match(tables.configEntry('mesh', 'mesh').value, { kind: 'mesh', peering: { peerThroughMeshGateways: true } })
})

t.test('the protocol of a service comes from its defaults, else from proxy-defaults, else is tcp', async t => {
  const { configEntries, tables } = await scene(t)
  const before = tables.protocol('web')
  t.equal(before.value, 'tcp')
  await configEntries.write(entry({ Kind: 'proxy-defaults', Config: { protocol: 'HTTP2' } }))
  t.equal(await tables.waitFor(before.topics, before.index, 0), true)
  t.equal(tables.protocol('web').value, 'http2')
  await configEntries.write(webDefaults)
  t.equal(tables.protocol('web').value, 'http')
  t.equal(tables.protocol('db').value, 'http2')
})

t.test('permissions need an http protocol, and keep it', async t => {
  const { configEntries } = await scene(t)
  const message = 'service "web" has protocol "tcp", which is incompatible with L7 intentions permissions'
  await t.rejects(configEntries.write(l7), { code: 'invalid', message })
  await configEntries.write(entry({ Kind: 'proxy-defaults', Config: { protocol: 'http' } }))
  t.equal(await configEntries.write(l7), true)
  await t.rejects(configEntries.delete('proxy-defaults', 'global'), { code: 'invalid', message })
  await t.rejects(configEntries.write(entry({ Kind: 'service-defaults', Name: 'web', Protocol: 'tcp' })), { message })
  await configEntries.write(webDefaults)
  t.equal(await configEntries.delete('proxy-defaults', 'global'), true)
  await t.rejects(configEntries.delete('service-defaults', 'web'), { message })
})

t.test('what refers to an entry that is not there is refused', async t => {
  const { configEntries } = await scene(t)
  const permissive = entry({ Kind: 'service-defaults', Name: 'x', MutualTLSMode: 'permissive' })
  await t.rejects(configEntries.write(permissive), {
    message: 'cannot set MutualTLSMode=permissive because AllowEnablingPermissiveMutualTLS=false in the mesh config entry',
  })
  await configEntries.write(entry({ Kind: 'mesh', AllowEnablingPermissiveMutualTLS: true }))
  t.equal(await configEntries.write(permissive), true)
  const jwt = entry({
    Kind: 'service-intentions',
    Name: 'x',
    JWT: { Providers: [{ Name: 'nope' }] },
    Sources: [{ Name: 'a', Action: 'allow' }],
  })
  await t.rejects(configEntries.write(jwt), {
    message: '1 error occurred:\n\t* Referenced JWT Provider does not exist. Provider Name: nope\n\n',
  })
})

const httpDefaults = entry({ Kind: 'proxy-defaults', Config: { protocol: 'http' } })
const splitterOf = (name: string, ...services: string[]) =>
  entry({ Kind: 'service-splitter', Name: name, Splits: services.map(Service => ({ Service, Weight: 100 / services.length })) })

t.test('entries that make a chain keep what it needs', async t => {
  const { configEntries } = await scene(t)
  const bytes = (name: string) => ({
    code: 'invalid',
    message: `discovery chain "${name}" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`,
  })
  await t.rejects(configEntries.write(splitterOf('web', 'web')), bytes('web'))
  await configEntries.write(httpDefaults)
  t.equal(await configEntries.write(splitterOf('web', 'web', 'api')), true)
  await t.rejects(configEntries.delete('proxy-defaults', 'global'), bytes('web'))
  await t.rejects(configEntries.write(entry({ Kind: 'proxy-defaults', Config: {} })), bytes('web'))
  await t.rejects(configEntries.write(entry({ Kind: 'service-defaults', Name: 'API', Protocol: 'grpc' })), {
    message: 'discovery chain "web" uses inconsistent protocols; service "api" has "grpc" which is not "http"',
  })
  t.equal(await configEntries.delete('service-splitter', 'web'), true)
  t.equal(await configEntries.delete('proxy-defaults', 'global'), true)
})

t.test('a subset that another entry leads to stays; so does an entry whose chain would turn in a circle without it', async t => {
  const { configEntries } = await scene(t)
  await configEntries.write(httpDefaults)
  const resolver = (Subsets: object) => entry({ Kind: 'service-resolver', Name: 'api', Subsets })
  await configEntries.write(resolver({ v1: {}, v2: {} }))
  await configEntries.write(
    entry({ Kind: 'service-router', Name: 'web', Routes: [{ Destination: { Service: 'api', ServiceSubset: 'v1' } }] }),
  )
  const missing = { message: 'service "api" does not have a subset named "v1"' }
  await t.rejects(configEntries.write(resolver({ v2: {} })), missing)
  await t.rejects(configEntries.delete('service-resolver', 'api'), missing)
  t.equal(await configEntries.write(resolver({ v1: {} })), true)
  const redirect = (Name: string, Service: string) => entry({ Kind: 'service-resolver', Name, Redirect: { Service } })
  await configEntries.write(redirect('a', 'b'))
  await configEntries.write(redirect('b', 'c'))
  await t.rejects(configEntries.write(redirect('c', 'a')), {
    message:
      'detected circular resolver redirect: [c.default.default.dc1 -> a.default.default.dc1 -> b.default.default.dc1 -> c.default.default.dc1]',
  })
})

t.test('what is exported to a peer leads to no other datacenter, whichever is written first', async t => {
  const { configEntries } = await scene(t)
  const exported = (...peers: string[]) =>
    entry({ Kind: 'exported-services', Name: 'default', Services: [{ Name: 'web', Consumers: peers.map(Peer => ({ Peer })) }] })
  const failover = entry({ Kind: 'service-resolver', Name: 'web', Failover: { '*': { Datacenters: ['dc2'] } } })
  const redirect = entry({ Kind: 'service-resolver', Name: 'web', Redirect: { Datacenter: 'dc2' } })
  await configEntries.write(failover)
  await t.rejects(configEntries.write(exported('east')), { message: 'peer exported service "web" contains cross-datacenter failover' })
  await configEntries.delete('service-resolver', 'web')
  await configEntries.write(exported('east'))
  await t.rejects(configEntries.write(failover), { message: 'peer exported service "web" contains cross-datacenter failover' })
  await t.rejects(configEntries.write(redirect), { message: 'peer exported service "web" contains cross-datacenter resolver redirect' })
})

t.test('writes that are judged by each other cannot pass each other', async t => {
  const { configEntries } = await scene(t)
  await configEntries.write(httpDefaults)
  const both = await Promise.allSettled([
    configEntries.write(splitterOf('web', 'web', 'api')),
    configEntries.write(entry({ Kind: 'service-defaults', Name: 'api', Protocol: 'grpc' })),
  ])
  t.same(both.map(each => each.status).sort(), ['fulfilled', 'rejected'])
})

t.test('a JWT provider is there before an intention names it, and stays while one does', async t => {
  const { configEntries } = await scene(t)
  const provider = entry({ Kind: 'jwt-provider', Name: 'okta', JSONWebKeySet: { Local: { JWKS: 'e30=' } } })
  const jwt = { Providers: [{ Name: 'okta' }] }
  const intentions = entry({ Kind: 'service-intentions', Name: 'x', JWT: jwt, Sources: [{ Name: 'a', Action: 'allow' }] })
  await t.rejects(configEntries.write(intentions), /Referenced JWT Provider does not exist/)
  await configEntries.write(provider)
  t.equal(await configEntries.write(intentions), true)
  await t.rejects(configEntries.delete('jwt-provider', 'okta'), {
    message: 'cannot delete jwt provider config entry referenced by an intention. Provider name: okta, intention name: x',
  })
  await configEntries.delete('service-intentions', 'x')
  t.equal(await configEntries.delete('jwt-provider', 'okta'), true)
})

t.test('a name with a chain has a virtual address of its own', async t => {
  const { configEntries, tables } = await scene(t)
  await configEntries.write(httpDefaults)
  await configEntries.write(entry({ Kind: 'service-resolver', Name: 'shop', Redirect: { Service: 'api', Peer: 'east' } }))
  const { value } = tables.virtualIp('shop')
  t.match(value, /^240\.0\.0\.\d+$/)
  await configEntries.write(entry({ Kind: 'service-router', Name: 'shop', Routes: [] }))
  t.equal(tables.virtualIp('shop').value, value)
})
