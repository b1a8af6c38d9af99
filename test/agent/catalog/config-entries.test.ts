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
