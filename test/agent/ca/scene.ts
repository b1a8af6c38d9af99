/** A CA over a real store for tests, and the openssl command, which judges what it makes. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { CertificateAuthority } from '../../../src/agent/ca/authority.ts'
import { Tables } from '../../../src/agent/catalog/tables.ts'
import { openEmbeddedStore } from '../../../src/agent/store/embedded.ts'
import type { Store } from '../../../src/agent/store/store.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { FakeClock } from '../../support/fake-clock.ts'

export const clusterId = '11111111-2222-3333-4444-555555555555'
export const trustDomain = `${clusterId}.consul`
export const apiId = `spiffe://${trustDomain}/ns/default/dc/dc1/svc/api`

export interface Scene {
  ca: CertificateAuthority
  store: Store
  tables: Tables
  clock: FakeClock
  dir: string
}

/** `nowMs` is the real time unless told, because openssl looks at the real clock. */
export async function openCa(t: Test, options: { random?: () => number; nowMs?: number } = {}): Promise<Scene> {
  const clock = new FakeClock(options.nowMs ?? Date.now())
  const logger = silentLogger()
  const store = await openEmbeddedStore({ dir: undefined, logger, clock })
  const tables = await Tables.open(store)
  const ca = await CertificateAuthority.open({ store, tables, datacenter: 'dc1', clock, logger, clusterId, random: options.random })
  const dir = scratch(t)
  t.teardown(async () => {
    ca.close()
    tables.close()
    await store.close()
  })
  return { ca, store, tables, clock, dir }
}

export function scratch(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-test-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** The certificates of a PEM chain, one by one. */
export function certificatesOf(pem: string): string[] {
  return pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n/g) ?? []
}

/** Does `openssl verify -x509_strict` accept this chain with this trust anchor? */
export function verifies(dir: string, root: string, chain: string, ...more: string[]): boolean {
  writeFileSync(join(dir, 'root.pem'), root)
  const [leaf = '', ...intermediates] = certificatesOf(chain)
  writeFileSync(join(dir, 'leaf.pem'), leaf)
  writeFileSync(join(dir, 'untrusted.pem'), intermediates.join(''))
  const untrusted = intermediates.length > 0 ? ['-untrusted', join(dir, 'untrusted.pem')] : []
  const strict = ['verify', '-x509_strict', ...more, '-CAfile', join(dir, 'root.pem'), ...untrusted, join(dir, 'leaf.pem')]
  return spawnSync('openssl', strict).status === 0
}

/** `openssl x509 -text` without what differs between any two certificates. */
export function textOf(pem: string): string {
  const text = execFileSync('openssl', ['x509', '-noout', '-text', '-certopt', 'no_sigdump'], { input: pem, encoding: 'utf8' })
  return text
    .replaceAll(/(?:[0-9A-F]{2}:){31}[0-9A-F]{2}/g, '<key id>')
    .replaceAll(/\n(?: +[0-9a-f]{2}:[0-9a-f:\n ]+)/g, '\n<bytes>\n')
    .replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, '<cluster>')
    .replaceAll(/pri-[0-9a-z]{1,8}\.consul\.ca\.[0-9a-f]{8}\.consul/g, '<common name>')
    .replaceAll(/Serial Number: \d+ \(0x[0-9a-f]+\)/g, 'Serial Number: <small>')
    .replaceAll(/(Not (?:Before|After ?)) ?: .*/g, '$1: <date>')
    .replaceAll(/dc\/dc\d/g, 'dc/<dc>')
    .replaceAll(/server\.dc\d/g, 'server.<dc>')
    .replaceAll(/svc\/\w+/g, 'svc/<service>')
}

/** A request by the openssl command. `san` is its subjectAltName, empty for none. */
export function csr(
  dir: string,
  san: string,
  options: { key?: string[]; digest?: string; extra?: string } = {},
): { pem: string; keyPath: string } {
  const keyPath = join(dir, 'csr.key')
  execFileSync('openssl', ['genpkey', ...(options.key ?? ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256']), '-out', keyPath], {
    stdio: 'pipe',
  })
  const lines = ['[req]', 'distinguished_name=dn', 'prompt=no', ...(san === '' ? [] : ['req_extensions=v3']), '[dn]', 'CN=any', '[v3]']
  if (san !== '') lines.push(`subjectAltName=${san}`)
  if (options.extra !== undefined) lines.push(options.extra)
  writeFileSync(join(dir, 'csr.cnf'), `${lines.join('\n')}\n`)
  const args = ['req', '-new', '-key', keyPath, '-config', join(dir, 'csr.cnf'), `-${options.digest ?? 'sha256'}`]
  return { pem: execFileSync('openssl', args, { encoding: 'utf8', stdio: 'pipe' }), keyPath }
}
