// The snapshot's schemas: what crosses between the planes, proven to survive JSON.
import t from 'tap'
import { names, resourceKinds } from '../../src/mesh/snapshot.ts'
import { peerNamePattern } from '../../src/mesh/peering.ts'

t.test('a self that an older agent wrote gets the defaults of what it did not know', t => {
  const self = resourceKinds.self.parse({
    proxyId: 'web-sidecar-proxy',
    kind: 'sidecar',
    service: 'web',
    serviceId: 'web',
    datacenter: 'dc1',
    trustDomain: 'x.consul',
    spiffeId: 'spiffe://x.consul/ns/default/dc/dc1/svc/web',
    protocol: 'http',
    listen: { address: '127.0.0.1', port: 21000 },
    defaultAction: 'deny',
  })
  t.match(self, {
    expose: [],
    inboundPeers: [],
    draining: false,
    lanNamesOnWan: false,
    maxInboundConnections: 0,
    localConnectTimeoutMs: 5000,
    localRequestTimeoutMs: 15_000,
  })
  t.same(resourceKinds.self.parse(JSON.parse(JSON.stringify(self))), self)
  t.end()
})

t.test('an unknown default action is refused, never read as allow', t => {
  const result = resourceKinds.self.safeParse({ defaultAction: 'allow-all' })
  t.equal(result.success, false)
  t.end()
})

t.test('upstreams of different peers have different names, and our own roots cannot be a peer’s', t => {
  t.equal(names.upstream('api', ''), 'api')
  t.equal(names.upstream('api', 'east'), 'api?peer=east')
  t.equal(peerNamePattern.test(names.localRoots), false)
  t.end()
})
