/**
 * Mints certificates for development into a directory: a root, a leaf for a service, and a server certificate, made by the code
 * that an agent uses. Nothing that exists is overwritten without --force, and keys are readable for their owner alone.
 * Run: node dist/certs/mint.js DIRECTORY [--service web] [--datacenter dc1] [--cluster-id UUID] [--force]
 */
import { createPublicKey, randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { leafCertificate, newPrivateKey, privateKeyPem, type Signer } from '../src/agent/ca/certificate.ts'
import { defaultConfig, readSettings } from '../src/agent/ca/configuration.ts'
import { commonNameOf, newRoot } from '../src/agent/ca/root.ts'
import { messageOf } from '../src/lib/errors.ts'
import { peeringServerName } from '../src/mesh/sni.ts'
import { serverId, serviceId } from '../src/mesh/spiffe.ts'

interface Wish {
  directory: string
  service: string
  datacenter: string
  clusterId: string
  force: boolean
}

const usage = `node dist/certs/mint.js DIRECTORY [--service web] [--datacenter dc1] [--cluster-id UUID] [--force]

Mints a root, a leaf for a service and a server certificate for development, keys with mode 0600. --force replaces what is there.`

function readArguments(): Wish {
  if (process.argv.includes('--help') || process.argv.includes('-h')) {
    console.log(usage)
    process.exit(0)
  }
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      service: { type: 'string', default: 'web' },
      datacenter: { type: 'string', default: 'dc1' },
      'cluster-id': { type: 'string', default: randomUUID() },
      force: { type: 'boolean', default: false },
    },
  })
  const [directory, ...more] = positionals
  if (directory === undefined || more.length > 0)
    throw new Error('name one directory: node dist/certs/mint.js DIRECTORY; --help tells the rest')
  const clusterId = values['cluster-id'].toLowerCase()
  if (!/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(clusterId))
    throw new Error('--cluster-id is no UUID; leave it out for a random one')
  return { directory, service: values.service, datacenter: values.datacenter, clusterId, force: values.force }
}

/** File name -> content. */
async function mint(wish: Wish): Promise<Map<string, string>> {
  const settings = readSettings(defaultConfig)
  const nowMs = Math.floor(Date.now() / 1000) * 1000
  const trustDomain = `${wish.clusterId}.consul`
  const { root, key } = await newRoot({ clusterId: wish.clusterId, serial: 1, settings, nowMs })
  const signer: Signer = { commonName: commonNameOf(root), key }
  const files = new Map([
    ['root.pem', root.rootCert],
    ['root.key', privateKeyPem(key)],
  ])
  const leaf = async (name: string, serial: number, spiffeId: string, dnsNames: string[]): Promise<void> => {
    const own = await newPrivateKey({ type: 'ec', bits: 256 })
    const validity = { notBeforeMs: nowMs - 60_000, notAfterMs: nowMs - 60_000 + settings.leafTtlMs }
    files.set(`${name}.pem`, leafCertificate({ serial, spiffeId, dnsNames, publicKey: createPublicKey(own), signer, validity }))
    files.set(`${name}.key`, privateKeyPem(own))
  }
  await leaf('leaf', 2, serviceId(trustDomain, wish.datacenter, wish.service), [])
  await leaf('server', 3, serverId(trustDomain, wish.datacenter), [peeringServerName(wish.datacenter, trustDomain)])
  return files
}

function write(directory: string, files: Map<string, string>, force: boolean): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const there = [...files.keys()].filter(name => existsSync(join(directory, name)))
  if (there.length > 0 && !force) {
    throw new Error(`${directory} already has ${there.join(', ')}; choose another directory, or overwrite with --force`)
  }
  for (const [name, content] of files) {
    const path = join(directory, name)
    // Made anew, because an existing file would keep its mode.
    if (force) rmSync(path, { force: true })
    writeFileSync(path, content, { flag: 'wx', mode: name.endsWith('.key') ? 0o600 : 0o644 })
  }
}

try {
  const wish = readArguments()
  const files = await mint(wish)
  write(wish.directory, files, wish.force)
  console.log(`${wish.directory}: ${[...files.keys()].join(', ')} (trust domain ${wish.clusterId}.consul, leaves valid for 72 hours)`)
} catch (error) {
  console.error(messageOf(error))
  process.exitCode = 1
}
