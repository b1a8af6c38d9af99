/** ContentHash against recorded vectors: clients compare it, and one of Consul's own tests asserts an exact value. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { contentHash, encodeAgentServiceWithHash } from '../../../src/agent/http/agent-service.ts'
import { decode } from '../../../src/lib/shape.ts'
import { NodeService } from '../../../src/mesh/service.ts'

interface Vector {
  service?: Record<string, unknown>
  file?: string
  ContentHash: string
}

const golden = 'test/golden/http'
const vectors = JSON.parse(readFileSync(`${golden}/contenthash-vectors.json`, 'utf8')) as Vector[]

function wireOf(vector: Vector): Record<string, unknown> {
  if (vector.service) return vector.service
  const file = JSON.parse(readFileSync(`${golden}/${vector.file}`, 'utf8')) as { response: { json: Record<string, unknown> } }
  const { ContentHash: _hash, Datacenter: _datacenter, ...wire } = file.response.json
  return wire
}

for (const vector of vectors) {
  t.test(`hashes as Consul does: ${vector.file ?? 'the vector of the Go suite'}`, async t => {
    t.equal(contentHash(wireOf(vector)), vector.ContentHash)
  })
}

t.test('the agent form of a recorded sidecar is the recorded answer', async t => {
  const file = JSON.parse(readFileSync(`${golden}/agent/service-sidecar.json`, 'utf8')) as { response: { json: Record<string, unknown> } }
  const { ContentHash, Datacenter, ...wire } = file.response.json
  const decoded = decode(NodeService, wire)
  if (!decoded.ok) throw new Error(JSON.stringify(decoded.issues))
  const encoded = encodeAgentServiceWithHash(decoded.value, String(Datacenter))
  t.strictSame(encoded, { wire: file.response.json, hash: ContentHash })
})

t.test('any change of the proxy changes the hash', async t => {
  const base = wireOf(vectors[2]!)
  const proxy = base['Proxy'] as Record<string, unknown>
  const changed = [
    { ...base, Port: 1 },
    { ...base, Proxy: { ...proxy, LocalServicePort: 1 } },
    { ...base, Proxy: { ...proxy, Config: { x: 1.5 } } },
    { ...base, Proxy: { ...proxy, Expose: { Checks: true } } },
    { ...base, Meta: { a: 'b' } },
  ]
  t.equal(new Set([base, ...changed].map(contentHash)).size, 6)
})
