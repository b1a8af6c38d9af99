/**
 * Random histories of writes: after every one, what a reader sees is what the store holds, an answer that changed has a newer
 * index, and no index ever falls. A missed wake or a lost record is found here.
 */
import * as fc from 'fast-check'
import t from 'tap'
import { Tables, type Reading } from '../../../src/agent/catalog/tables.ts'
import type { CheckServiceNode } from '../../../src/mesh/service.ts'
import { catalogScene, type CatalogScene } from '../../support/catalog-scene.ts'

const runs = process.env['ISTHMUS_DEEP'] === '1' ? 500 : 25
const names = ['a', 'b', 'web', 'web-sidecar-proxy']
const name = fc.constantFrom(...names)
const node = fc.constantFrom('n1', 'N2', 'n3')
const peer = fc.constantFrom('east', 'west')
const key = fc.constantFrom('k', 'k/1', 'k/2', 'x')
const status = fc.constantFrom('passing', 'warning', 'critical')

type Write = (scene: CatalogScene) => Promise<unknown>

const register = fc
  .record({
    node,
    service: name,
    port: fc.integer({ min: 1, max: 3 }),
    kind: fc.constantFrom(undefined, 'connect-proxy', 'mesh-gateway'),
    native: fc.boolean(),
    of: name,
  })
  .map(({ node, service, port, kind, native, of }): Write => {
    const proxy = { mode: '', meshGateway: {}, expose: {}, ...(kind === 'connect-proxy' ? { destinationServiceName: of } : {}) }
    const connect = kind === undefined && native ? { native: true } : {}
    return ({ catalog }) =>
      catalog.register({ node, address: '10.0.0.1', service: { id: `${service}-id`, service, port, kind, proxy, connect } })
  })

const check = fc
  .record({ node, service: fc.option(name), status })
  .map(({ node, service, status }): Write => async ({ catalog, tables }) => {
    const serviceId = service === null ? '' : `${service}-id`
    if (serviceId !== '' && !tables.serviceOf(node, serviceId)) return
    await catalog.register({ node, address: '10.0.0.1', check: { checkId: `c-${serviceId}`, name: 'c', status, serviceId } })
  })

const deregister = fc.record({ node, service: fc.option(name), checkOnly: fc.boolean() }).map(
  ({ node, service, checkOnly }): Write =>
    ({ catalog }) =>
      catalog.deregister({
        node,
        ...(service === null ? {} : checkOnly ? { checkId: `c-${service}-id` } : { serviceId: `${service}-id` }),
      }),
)

const imported = fc.record({ peer, service: name, count: fc.integer({ min: 0, max: 2 }), port: fc.integer({ min: 1, max: 2 }) }).map(
  ({ peer, service, count, port }): Write =>
    ({ catalog }) =>
      catalog.replaceImported(
        peer,
        service,
        Array.from({ length: count }, (_, i) => foreign(`f${i}`, service, port)),
        1,
      ),
)

const sweep = fc.record({ peer, keep: name, purge: fc.boolean() }).map(
  ({ peer, keep, purge }): Write =>
    ({ catalog }) =>
      purge ? catalog.purgeImported(peer) : catalog.sweepImported(peer, service => service === keep),
)

const keys = fc.record({ key, value: fc.constantFrom('', '1', '2'), remove: fc.boolean(), recurse: fc.boolean() }).map(
  ({ key, value, remove, recurse }): Write =>
    ({ kv }) =>
      remove ? kv.delete(key, { recurse }) : kv.put(key, Buffer.from(value)),
)

const entries = fc.record({ service: name, protocol: fc.constantFrom('tcp', 'http'), remove: fc.boolean() }).map(
  ({ service, protocol, remove }): Write =>
    ({ configEntries }) =>
      remove
        ? configEntries.delete('service-defaults', service)
        : configEntries.write({
            kind: 'service-defaults',
            name: service,
            protocol,
            transparentProxy: {},
            meshGateway: {},
            expose: {},
            createIndex: 0,
            modifyIndex: 0,
          }),
)

const history = fc.array(fc.oneof(register, register, check, deregister, imported, sweep, keys, entries), { minLength: 1, maxLength: 25 })

function foreign(node: string, service: string, port: number): CheckServiceNode {
  const zero = { createIndex: 0, modifyIndex: 0 }
  const kind = service.endsWith('-sidecar-proxy') ? 'connect-proxy' : undefined
  return {
    node: { id: '', node, address: '10.1.0.1', datacenter: 'dc2', taggedAddresses: null, meta: null, ...zero },
    service: {
      kind,
      id: service,
      service,
      tags: [],
      address: '',
      meta: null,
      port,
      weights: { passing: 1, warning: 1 },
      enableTagOverride: false,
      proxy: { mode: '', meshGateway: {}, expose: {} },
      connect: {},
      peerName: '',
      ...zero,
    },
    checks: [],
  }
}

/** Everything that can be asked. */
function ask(tables: Tables): Map<string, Reading<unknown>> {
  const asked = new Map<string, Reading<unknown>>([
    ['nodes', tables.nodes()],
    ['services', tables.services()],
    ['gateways', tables.gateways()],
    ['checks', tables.checksInState('any')],
    ['critical', tables.checksInState('critical')],
    ['config', tables.configEntries()],
    ['kv all', tables.kvList('')],
    ['kv k', tables.kvList('k')],
    ['kv k/', tables.kvList('k/')],
    ['imported east', tables.importedServices('east')],
  ])
  for (const each of ['k', 'k/1', 'k/2', 'x']) asked.set(`key ${each}`, tables.kv(each))
  for (const each of ['n1', 'n2', 'n3']) {
    asked.set(`node ${each}`, tables.node(each))
    asked.set(`services of ${each}`, tables.nodeServices(each))
    asked.set(`checks of ${each}`, tables.checksOfNode(each))
  }
  for (const each of names) {
    asked.set(`checks of service ${each}`, tables.checksOfService(each))
    asked.set(`config ${each}`, tables.configEntry('service-defaults', each))
    asked.set(`protocol ${each}`, tables.protocol(each))
    for (const from of ['', 'east', 'west']) {
      asked.set(`instances ${from}/${each}`, tables.instances(each, from))
      asked.set(`connect ${from}/${each}`, tables.connectInstances(each, from))
      asked.set(`virtual ip ${from}/${each}`, tables.virtualIp(each, from))
    }
  }
  return asked
}

const text = (value: unknown) => JSON.stringify(value instanceof Map ? [...value] : value)

t.test('tables follow the store, and every change has a newer index', async t => {
  const scene = await catalogScene()
  t.teardown(() => scene.close())
  await fc.assert(
    fc.asyncProperty(history, async writes => {
      let before = ask(scene.tables)
      for (const write of writes) {
        await write(scene)
        const now = ask(scene.tables)
        for (const [what, { value, index, topics }] of now) {
          const old = before.get(what)!
          if (index < old.index) throw new Error(`the index of ${what} fell from ${old.index} to ${index}`)
          if (text(value) === text(old.value)) continue
          if (index <= old.index) throw new Error(`${what} changed and kept its index ${index}`)
          if (!(await scene.tables.waitFor(topics, old.index, 0))) throw new Error(`nobody who waited for ${what} was woken`)
        }
        before = now
      }
      const fresh = await Tables.open(scene.store)
      try {
        for (const [what, { value }] of ask(fresh)) {
          if (text(value) !== text(before.get(what)!.value))
            throw new Error(`${what} is not what the store holds: ${text(before.get(what)!.value)} instead of ${text(value)}`)
        }
      } finally {
        fresh.close()
      }
    }),
    { numRuns: runs },
  )
  t.pass()
})
