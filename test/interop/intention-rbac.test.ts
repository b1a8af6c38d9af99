/**
 * The rules that intention-rbac.ts makes are Consul's: those that were recorded, and, live, what a Consul gives its Envoy for intentions
 * made up from a seed. The live part needs CONSUL_BIN and ENVOY_BIN.
 */
import { generateKeyPairSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { call, until } from '../support/processes.ts'
import { consulBin, ConsulProcess } from './consul-process.ts'
import { rbacOf, type RbacContext, type Rules } from './intention-rbac.ts'
import { Maker, written } from './judge-cases.ts'
import { envoyBin, EnvoyProcess } from './live/envoy-process.ts'

interface Recorded extends RbacContext {
  recording: string
  entries: unknown[]
  rules: Rules
}

t.test('intentions become the rules that a real Consul gave its Envoys', async t => {
  const recorded = JSON.parse(readFileSync('test/golden/envoy/rbac.json', 'utf8')) as Recorded[]
  for (const { recording, entries, rules, ...context } of recorded) t.same(rbacOf(entries.map(written), context), rules, recording)
  t.equal(recorded.length, 11)
})

const skip =
  (consulBin === undefined || envoyBin === undefined) && 'there is no Consul or no Envoy (CONSUL_BIN, ENVOY_BIN): only recordings'
if (skip) process.stderr.write(`# SKIPPED: ${skip}\n`)
const sets = 30
/** For the rules to come. */
const patienceMs = 3000
const issuer = 'https://iss'

/** The first RBAC filter in a part of Envoy's configuration. */
function rulesIn(part: unknown): Rules | undefined {
  if (typeof part !== 'object' || part === null) return undefined
  const { '@type': type, rules } = part as Record<string, unknown>
  if (typeof type === 'string' && type.endsWith('filters.http.rbac.v3.RBAC')) return rules as Rules
  for (const each of Object.values(part)) {
    const found = rulesIn(each)
    if (found !== undefined) return found
  }
  return undefined
}

t.test('a real Consul gives its Envoy the same rules', { skip }, async t => {
  const consul = await ConsulProcess.start('dc1')
  t.teardown(() => consul.stop())
  const put = (entry: object) => consul.api('PUT', '/v1/config', entry)
  const Address = '127.0.0.1'
  // Envoy refuses a set without a key.
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const jwks = Buffer.from(JSON.stringify({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'ES256' }] })).toString(
    'base64',
  )
  await put({ Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
  await put({ Kind: 'jwt-provider', Name: 'okta', Issuer: issuer, JSONWebKeySet: { Local: { JWKS: jwks } } })
  await consul.api('PUT', '/v1/agent/service/register', { Name: 'api', Port: 9, Address, Connect: { SidecarService: { Address } } })
  const { TrustDomain: trustDomain } = (await consul.api('GET', '/v1/connect/ca/roots')).json as { TrustDomain: string }
  const envoy = await EnvoyProcess.start(consul, 'api', ['-sidecar-for', 'api'], async () => {
    const services = (await consul.api('GET', '/v1/agent/services')).json as Record<string, { Port: number }>
    return services['api-sidecar-proxy']!.Port
  })
  t.teardown(() => envoy.running.stop())
  // Without ACLs calls are allowed by default. There are no peers, so sources of peers are left out.
  const context: RbacContext = { default: 'allow', protocol: 'http', trustDomain, peers: {}, issuers: { okta: issuer } }
  const maker = new Maker(6)
  let equal = 0
  for (let i = 0; i < sets; i++) {
    const [own, all] = maker.entries() as [object, object?]
    await put(own)
    if (all === undefined) await consul.api('DELETE', '/v1/config/service-intentions/*')
    else await put(all)
    const entries = (all === undefined ? [own] : [own, all]).map(written)
    const wanted = rbacOf(entries, context)
    let seen: Rules | undefined
    const same = async () => {
      const dump = await call(envoy.adminPort, '/config_dump?resource=dynamic_listeners')
      seen = rulesIn(dump.json)
      return isDeepStrictEqual(seen, wanted)
    }
    await until(`set ${i}`, same, patienceMs, 20).then(
      () => (equal += 1),
      () => t.same(seen, wanted, `set ${i}`, { entries }),
    )
  }
  t.equal(equal, sets)
})
