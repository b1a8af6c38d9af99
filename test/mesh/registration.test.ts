/** What an agent may be asked to run, against what a real Consul 1.16.4 answered (test/golden/config-entry/registrations.json). */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { decode, encode } from '../../src/lib/shape.ts'
import {
  checkCheck,
  checkMeta,
  checkNodeService,
  checkServiceDefinition,
  isAnyAddress,
  nodeServiceOf,
} from '../../src/mesh/registration.ts'
import { NodeService, ServiceDefinition } from '../../src/mesh/service.ts'
import { expandSidecar } from '../../src/agent/catalog/sidecar.ts'

interface Registration {
  name?: string
  body: unknown
  status: number
  text: string
}

function answer(body: unknown): { status: number; text: string } {
  const decoded = decode(ServiceDefinition, body)
  if (!decoded.ok) return { status: 400, text: JSON.stringify(decoded.issues) }
  const problem = checkServiceDefinition(decoded.value)
  if (problem !== undefined) return { status: 400, text: problem }
  const sidecar = expandSidecar(decoded.value, nodeServiceOf(decoded.value), () => 21000)
  const wrong = sidecar && checkNodeService(sidecar.service)
  return wrong === undefined ? { status: 200, text: '' } : { status: 400, text: `Failed Validation: ${wrong}` }
}

t.test('every recorded registration is answered with the status and the text of Consul', async t => {
  const all = JSON.parse(readFileSync('test/golden/config-entry/registrations.json', 'utf8')) as Registration[]
  t.ok(all.length >= 35)
  for (const { name, body, status, text } of all) {
    const got = answer(body)
    t.same({ status: got.status, text: got.text.trim() }, { status, text: text.trim() }, name ?? JSON.stringify(body))
  }
})

t.test('checks that would run something here are refused with what to use instead', async t => {
  const interval = { intervalMs: 1000 }
  t.match(checkCheck({ args: ['/bin/true'], ...interval }), /^Script checks are not supported: .* use an HTTP, TCP or TTL check$/)
  t.match(checkCheck({ shell: 'sh', scriptArgs: ['x'], ...interval }), /^Script checks/)
  t.match(checkCheck({ dockerContainerId: 'x', ...interval }), /^Docker checks/)
  t.match(checkCheck({ osService: 'x', ...interval }), /^OSService checks/)
  t.match(checkCheck({ grpc: '127.0.0.1:1', ...interval }), /^gRPC checks/)
  t.match(checkCheck({ h2ping: '127.0.0.1:1', ...interval }), /^H2PING checks/)
  t.match(checkCheck({ udp: '127.0.0.1:1', ...interval }), /^UDP checks/)
  t.equal(checkCheck({ ttlMs: 1000 }), undefined)
  t.equal(checkCheck({ ttlMs: 1000, aliasService: 'web' }), 'TTL must be not be set for Alias checks')
  t.equal(checkCheck({ tcp: '127.0.0.1:1', aliasService: 'web', ...interval }), 'Interval cannot be set for Alias checks')
  t.equal(checkCheck({ ttlMs: 1, ...interval }), 'Interval and TTL cannot both be specified')
})

t.test('meta has limits and a reserved prefix', async t => {
  t.equal(checkMeta({ a: 'b' }), undefined)
  t.equal(
    checkMeta({ 'consul-x': '1' }),
    "Couldn't load metadata pair ('consul-x', '1'): Key prefix 'consul-' is reserved for internal use",
  )
  t.equal(checkMeta({ 'consul-wan-federation': '1' }, ['consul-wan-federation']), undefined)
  t.match(checkMeta({ a: 'x'.repeat(513) }), /Value is too long \(limit: 512 characters\)$/)
  t.match(checkMeta(Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, '']))), /more than 64 key\/value pairs$/)
})

t.test('an address that nobody can dial is told apart', async t => {
  t.same(['0.0.0.0', '::', '0:0:0:0:0:0:0:0', '127.0.0.1', '::1', '', 'web'].map(isAnyAddress), [
    true,
    true,
    true,
    false,
    false,
    false,
    false,
  ])
})

t.test("what Consul's own command line sends for a sidecar is taken: empty check, empty structs and all", async t => {
  // As captured from `consul services register`.
  const body = {
    Name: 'web',
    Port: 8080,
    Weights: { Passing: 1, Warning: 1 },
    Check: null,
    Checks: [{ CheckID: 't', Name: 't', TTL: '1h0m0s', Status: 'passing' }],
    Connect: {
      SidecarService: {
        Weights: { Passing: 1, Warning: 1 },
        Check: {},
        Checks: null,
        Proxy: {
          TransparentProxy: {},
          Upstreams: [{ DestinationType: 'service', DestinationPeer: 'q', DestinationName: 'api', LocalBindPort: 9191, MeshGateway: {} }],
          MeshGateway: {},
          Expose: { Paths: [{ ListenerPort: 1, Path: '/m', LocalPathPort: 2, Protocol: 'http', ParsedFromCheck: false }] },
          AccessLogs: {},
        },
      },
    },
  }
  t.same(answer(body), { status: 200, text: '' })
  const decoded = decode(ServiceDefinition, body)
  if (!decoded.ok) throw new Error(JSON.stringify(decoded.issues))
  const sidecar = expandSidecar(decoded.value, nodeServiceOf(decoded.value), () => 21000)!
  t.same(
    sidecar.checks.map(check => check.name),
    ['Connect Sidecar Listening', 'Connect Sidecar Aliasing web'],
    'an empty check is none',
  )
  const { Proxy } = encode(NodeService, sidecar.service) as { Proxy: Record<string, unknown> }
  t.notOk('TransparentProxy' in Proxy || 'AccessLogs' in Proxy, 'empty, they are not printed')
})

t.test('a number that is no port is refused by its name', t => {
  const refused = (proxy: object) =>
    checkNodeService(
      NodeService.parse({ kind: 'connect-proxy', id: 'p', service: 'p', port: 1, proxy: { destinationServiceName: 'web', ...proxy } }),
    )
  t.match(refused({ localServicePort: 70_000 }), /Proxy\.LocalServicePort must be a port, 1 to 65535, and is 70000/)
  t.match(refused({ upstreams: [{ destinationName: 'api', localBindPort: 65_536 }] }), /LocalBindPort of upstream api must be a port/)
  t.match(refused({ expose: { paths: [{ path: '/h', listenerPort: 1, localPathPort: 99_999 }] } }), /LocalPathPort of \/h must be a port/)
  t.equal(refused({ localServicePort: 65_535 }), undefined)
  t.end()
})
