// Server names on the wire (spec/data-plane.md 4).
import t from 'tap'
import { externalSni, internalSni, isExternalSniOf, peeringServerName } from '../../src/mesh/sni.ts'

const td = 'e34756cd-9482-b0b5-868a-3b6b5ca0c4f4.consul'

t.test('names are written as Consul writes them', t => {
  t.equal(internalSni('api', 'dc2', td), `api.default.dc2.internal.${td}`)
  t.equal(externalSni('api', 'cluster-one', td), `api.default.default.cluster-one.external.${td}`)
  t.equal(peeringServerName('dc2', td), `server.dc2.peering.${td}`)
  t.end()
})

t.test('an external name belongs to exactly one trust domain, whatever its case', t => {
  const sni = externalSni('api', 'cluster-one', td)
  t.equal(isExternalSniOf(sni, td), true)
  t.equal(isExternalSniOf(sni.toUpperCase(), td), true)
  t.equal(isExternalSniOf(`api.ns1.team.cluster-one.external.${td}`, td), true)
  const refused = [
    externalSni('api', 'cluster-one', `x${td}`),
    externalSni('api', 'cluster-one', `evil.${td}`),
    `${sni}.`,
    `${sni}.evil`,
    internalSni('api', 'dc2', td),
    peeringServerName('dc2', td),
    `api.default.default.external.${td}`,
    `x.api.default.default.cluster-one.external.${td}`,
    `.default.default.cluster-one.external.${td}`,
    `external.${td}`,
    `exported~api.default.default.cluster-one.external.${td}`,
    '',
  ]
  for (const name of refused) t.equal(isExternalSniOf(name, td), false, name)
  t.end()
})
