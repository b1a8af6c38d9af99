// SPIFFE ids: Consul's forms and nothing else (spec/data-plane.md 2.2).
import * as fc from 'fast-check'
import t from 'tap'
import { meshGatewayId, parseSpiffeId, serverId, serviceId, signingId, trustDomainOf } from '../../src/mesh/spiffe.ts'

const td = 'e34756cd-9482-b0b5-868a-3b6b5ca0c4f4.consul'

t.test('ids are written as Consul writes them', t => {
  t.equal(serviceId(td, 'dc2', 'api'), `spiffe://${td}/ns/default/dc/dc2/svc/api`)
  t.equal(meshGatewayId(td, 'dc2'), `spiffe://${td}/gateway/mesh/dc/dc2`)
  t.equal(serverId(td, 'dc2'), `spiffe://${td}/agent/server/dc/dc2`)
  t.equal(signingId(td), `spiffe://${td}`)
  t.end()
})

t.test('ids are read into what they say', t => {
  const base = { trustDomain: td, partition: 'default', datacenter: 'dc2' }
  t.same(parseSpiffeId(serviceId(td, 'dc2', 'api')), { kind: 'service', ...base, namespace: 'default', service: 'api' })
  t.same(parseSpiffeId(meshGatewayId(td, 'dc2')), { kind: 'mesh-gateway', ...base })
  t.same(parseSpiffeId(serverId(td, 'dc2')), { kind: 'server', trustDomain: td, datacenter: 'dc2' })
  t.same(parseSpiffeId(`spiffe://${td}/ap/team/ns/billing/dc/dc2/svc/api`), {
    kind: 'service',
    ...base,
    partition: 'team',
    namespace: 'billing',
    service: 'api',
  })
  t.same(parseSpiffeId(`spiffe://${td}/ap/team/gateway/mesh/dc/dc2`), { kind: 'mesh-gateway', ...base, partition: 'team' })
  t.end()
})

t.test('anything else is no id', t => {
  const refused = [
    '',
    'spiffe://',
    `spiffe://${td}`,
    `spiffe://${td}/`,
    `https://${td}/ns/default/dc/dc2/svc/api`,
    `SPIFFE://${td}/ns/default/dc/dc2/svc/api`,
    `spiffe://${td.toUpperCase()}/ns/default/dc/dc2/svc/api`,
    `spiffe://user@${td}/ns/default/dc/dc2/svc/api`,
    `spiffe://${td}:1/ns/default/dc/dc2/svc/api`,
    `spiffe://${td}/ap/default/ns/default/dc/dc2/svc/api`,
    `spiffe://${td}/ap/default/gateway/mesh/dc/dc2`,
    `spiffe://${td}/ns/default/dc/dc2/svc/`,
    `spiffe://${td}/ns/default/dc/dc2/svc/api/`,
    `spiffe://${td}/ns/default/dc/dc2/svc/api/x`,
    `spiffe://${td}/x/ns/default/dc/dc2/svc/api`,
    `spiffe://${td}/ns/default/dc/dc2/svc/%zz`,
    `spiffe://${td}/ns/default/dc/dc2/svc/api?x=1`.padEnd(2049, 'x'),
    ` spiffe://${td}/ns/default/dc/dc2/svc/api`,
    `spiffe://${td}/agent/client/dc/dc2/id/node`,
  ]
  for (const uri of refused) t.equal(parseSpiffeId(uri), undefined, uri.slice(0, 80))
  t.end()
})

t.test('a name that needs escaping survives the way there and back', t => {
  fc.assert(
    fc.property(fc.string({ minLength: 1, maxLength: 40 }), service => {
      const identity = parseSpiffeId(serviceId(td, 'dc2', service))
      return identity?.kind === 'service' && identity.service === service
    }),
  )
  t.end()
})

t.test('no text makes the reader throw', t => {
  fc.assert(
    fc.property(fc.string({ maxLength: 60 }), text => {
      parseSpiffeId(text)
      parseSpiffeId(`spiffe://${td}/${text}`)
      return trustDomainOf(`spiffe://${td}/${text}`) === td
    }),
  )
  t.end()
})
