/** The script that mints development certificates, run as a person runs it. */
import { spawnSync } from 'node:child_process'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const script = fileURLToPath(new URL('../../certs/mint.js', import.meta.url))
const run = (...args: string[]): { status: number | null; out: string } => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: 'utf8' })
  return { status, out: stdout + stderr }
}

void t.test('it mints a root, a leaf and a server certificate that openssl accepts, with keys for their owner alone', t => {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-test-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const clusterId = '11111111-2222-3333-4444-555555555555'
  const { status, out } = run(dir, '--service', 'api', '--datacenter', 'dc9', '--cluster-id', clusterId)
  t.equal(status, 0, out)
  t.same(readdirSync(dir).sort(), ['leaf.key', 'leaf.pem', 'root.key', 'root.pem', 'server.key', 'server.pem'])
  const at = (name: string): string => join(dir, name)
  for (const name of ['leaf', 'server']) {
    t.equal(spawnSync('openssl', ['verify', '-x509_strict', '-CAfile', at('root.pem'), at(`${name}.pem`)]).status, 0)
  }
  for (const name of ['root', 'leaf', 'server']) {
    t.ok(new X509Certificate(readFileSync(at(`${name}.pem`))).checkPrivateKey(createPrivateKey(readFileSync(at(`${name}.key`)))))
    if (process.platform !== 'win32') t.equal(statSync(at(`${name}.key`)).mode & 0o777, 0o600)
  }
  t.equal(new X509Certificate(readFileSync(at('leaf.pem'))).subjectAltName, `URI:spiffe://${clusterId}.consul/ns/default/dc/dc9/svc/api`)

  const before = readFileSync(at('leaf.key'), 'utf8')
  const again = run(dir)
  t.equal(again.status, 1)
  t.match(again.out, /already has root\.pem.*overwrite with --force/)
  t.equal(readFileSync(at('leaf.key'), 'utf8'), before, 'nothing is overwritten unasked')
  chmodSync(at('leaf.key'), 0o644)
  t.equal(run(dir, '--force').status, 0)
  t.not(readFileSync(at('leaf.key'), 'utf8'), before)
  if (process.platform !== 'win32') t.equal(statSync(at('leaf.key')).mode & 0o777, 0o600)
  t.end()
})

void t.test('it says what is missing', t => {
  t.same(run(), { status: 1, out: 'name one directory: node dist/certs/mint.js DIRECTORY; --help tells the rest\n' })
  t.same(run('x', '--cluster-id', 'no'), { status: 1, out: '--cluster-id is no UUID; leave it out for a random one\n' })
  t.end()
})
