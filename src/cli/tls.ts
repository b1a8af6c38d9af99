/**
 * `isthmus tls`: a CA for agents' doors and certificates from it, as files in the working directory. Keys are readable by their owner
 * alone, and nothing that is there already is ever written over.
 */
import { InvalidArgumentError, type Command } from 'commander'
import { randomInt, X509Certificate, type KeyObject } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { messageOf } from '../lib/errors.ts'
import { collectTexts, say, wholeNumber } from './command.ts'
import { readFile } from './client.ts'
import { CliError, type CliContext } from './context.ts'

const dayMs = 86_400_000
const serverWarning = `==> WARNING: Server Certificates grants authority to become a
    server and access all state in the cluster including root keys
    and all ACL tokens. Do not distribute them to production hosts
    that are not server nodes. Store them as securely as CA keys.`

export function registerTls(program: Command, context: CliContext): void {
  const tls = program.command('tls').description("Make a CA and certificates for agents' HTTPS and gRPC doors")
  registerCa(tls.command('ca').description('The CA'), context)
  registerCert(tls.command('cert').description('Certificates'), context)
}

function registerCa(ca: Command, context: CliContext): void {
  interface Flags {
    domain: string
    days: number
    commonName?: string
    nameConstraint?: boolean
    additionalNameConstraint?: string[]
  }
  ca.command('create')
    .description('Make a CA')
    .option('--domain <name>', 'domain of the cluster', domainName, 'consul')
    .option('--days <number>', 'how long it is valid', wholeNumber, 1825)
    .option('--common-name <name>', 'common name; "Consul Agent CA" and a number unless told')
    .option('--name-constraint', 'let the CA sign for the domain and localhost only')
    .option('--additional-name-constraint <name>', 'with --name-constraint: one more name; repeatable', collectTexts)
    .action(async (flags: Flags) => {
      const { domain, days, nameConstraint, additionalNameConstraint: more } = flags
      if (more && !nameConstraint) throw new CliError('Must specify -name-constraint to use -additional-name-constraint')
      const files = [`${domain}-agent-ca.pem`, `${domain}-agent-ca-key.pem`] as const
      for (const file of files) if (existsSync(file)) throw new CliError(`${file} already exists.`)
      // Loaded here, so that a command of the API does not wait for it.
      const { newPrivateKey, privateKeyPem } = await import('../agent/ca/certificate.ts')
      const { agentCaCertificate } = await import('../agent/ca/agent-certificate.ts')
      const key = await newPrivateKey({ type: 'ec', bits: 256 })
      const commonName = flags.commonName ?? `Consul Agent CA ${randomInt(2 ** 47)}`
      const permittedDomains = nameConstraint ? [...(more ?? []), domain, 'localhost'] : []
      save(files[0], agentCaCertificate({ signer: { commonName, key }, validity: fromNow(days), permittedDomains }), 0o644, context)
      save(files[1], privateKeyPem(key), 0o600, context)
    })
}

interface CertFlags {
  server?: boolean
  client?: boolean
  cli?: boolean
  dc: string
  domain: string
  node?: string
  days: number
  ca?: string
  key?: string
  additionalDnsname?: string[]
  additionalIpaddress?: string[]
}

function registerCert(cert: Command, context: CliContext): void {
  cert
    .command('create')
    .description('Make a certificate from the CA')
    .option('--server', 'for a server')
    .option('--client', 'for a client agent')
    .option('--cli', 'for a command line')
    .option('--dc <name>', 'datacenter', domainName, 'dc1')
    .option('--domain <name>', 'domain of the cluster', domainName, 'consul')
    .option('--node <name>', 'with --server: the name of the node', domainName)
    .option('--days <number>', 'how long it is valid', wholeNumber, 365)
    .option('--ca <file>', "the CA's certificate; DOMAIN-agent-ca.pem unless told")
    .option('--key <file>', "the CA's key; DOMAIN-agent-ca-key.pem unless told")
    .option('--additional-dnsname <name>', 'one more DNS name; repeatable', collectTexts)
    .option('--additional-ipaddress <ip>', 'one more address; repeatable', collectAddresses)
    .action(async (flags: CertFlags) => createCertificate(flags, context))
}

async function createCertificate(flags: CertFlags, context: CliContext): Promise<void> {
  const { dc, domain, days } = flags
  const { kind, dnsNames, addresses, usages } = subjectOf(flags)
  const caFile = flags.ca ?? `${domain}-agent-ca.pem`
  const keyFile = flags.key ?? `${domain}-agent-ca-key.pem`
  const { newPrivateKey, privateKeyPem, readPrivateKey } = await import('../agent/ca/certificate.ts')
  const { agentCertificate } = await import('../agent/ca/agent-certificate.ts')
  const signer = signerOf(caFile, keyFile, readPrivateKey)
  if (kind === 'server') say(context, serverWarning)
  say(context, `==> Using ${caFile} and ${keyFile}`)
  const key = await newPrivateKey({ type: 'ec', bits: 256 })
  const all = {
    commonName: `${kind}.${dc}.${domain}`,
    dnsNames: [...dnsNames, ...(flags.additionalDnsname ?? [])],
    addresses: [...addresses, ...(flags.additionalIpaddress ?? [])],
    usages,
  }
  const certificate = agentCertificate({ ...all, publicKey: key, signer, validity: fromNow(days) })
  const name = freeName(`${dc}-${kind}-${domain}`)
  save(`${name}.pem`, certificate, 0o644, context)
  save(`${name}-key.pem`, privateKeyPem(key), 0o600, context)
}

interface Subject {
  kind: 'server' | 'client' | 'cli'
  dnsNames: string[]
  addresses: string[]
  usages: ('serverAuth' | 'clientAuth')[]
}

/** Who it is for, and by which names it is known. */
function subjectOf(flags: CertFlags): Subject {
  const { dc, domain, node } = flags
  const [kind, ...more] = (['server', 'client', 'cli'] as const).filter(each => flags[each])
  if (kind === undefined) throw new CliError('Please provide either -server, -client, or -cli')
  if (more.length > 0) throw new CliError('Please provide either -server, -client, or -cli, and only one of them')
  if (node !== undefined && kind !== 'server') throw new CliError('-node requires -server')
  const name = `${kind}.${dc}.${domain}`
  const dnsNames = [...(node === undefined ? [] : [`${node}.${name}`]), name, 'localhost']
  if (kind === 'cli') return { kind, dnsNames, addresses: [], usages: [] }
  return {
    kind,
    dnsNames,
    addresses: ['127.0.0.1'],
    usages: kind === 'server' ? ['serverAuth', 'clientAuth'] : ['clientAuth', 'serverAuth'],
  }
}

function signerOf(caFile: string, keyFile: string, read: (pem: string) => KeyObject): { commonName: string; key: KeyObject } {
  const files = { ca: readFile(caFile), key: readFile(keyFile) }
  try {
    const ca = new X509Certificate(files.ca)
    const key = read(files.key.toString())
    if (!ca.checkPrivateKey(key)) throw new Error('the key is not that of the certificate')
    const commonName = /(?:^|\n)CN=([^\n]+)/.exec(ca.subject)?.[1]
    if (!ca.ca || commonName === undefined) throw new Error('the certificate is not that of a CA with a common name')
    return { commonName, key }
  } catch (error) {
    throw new CliError(`Error reading CA from ${caFile} and ${keyFile}: ${messageOf(error)}`, 1, { cause: error })
  }
}

/** The first number whose files are not there yet. */
function freeName(prefix: string): string {
  for (let i = 0; ; i++) {
    const name = `${prefix}-${i}`
    if (!existsSync(`${name}.pem`) && !existsSync(`${name}-key.pem`)) return name
  }
}

function save(file: string, content: string, mode: number, context: CliContext): void {
  try {
    writeFileSync(file, content, { mode, flag: 'wx' })
  } catch (error) {
    throw new CliError(`cannot write ${file}: ${messageOf(error)}`, 1, { cause: error })
  }
  say(context, `==> Saved ${file}`)
}

function fromNow(days: number): { notBeforeMs: number; notAfterMs: number } {
  const now = Date.now()
  return { notBeforeMs: now, notAfterMs: now + days * dayMs }
}

/** It becomes part of a file's name, too. */
function domainName(text: string): string {
  if (!/^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(text)) throw new InvalidArgumentError('write it as a DNS name.')
  return text
}

function collectAddresses(text: string, before: string[] = []): string[] {
  if (isIP(text) === 0) throw new InvalidArgumentError('write it as an IP address.')
  return [...before, text]
}
