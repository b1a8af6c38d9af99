/**
 * Certificates for tests, minted with the openssl command: an implementation that is not ours, and one that can be told to make what
 * no honest authority would. Everything is made in one temporary directory, removed by `remove`.
 */
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Runs openssl with the words of `text`, then `more`. */
async function openssl(text: string, ...more: string[]): Promise<void> {
  await run('openssl', [...text.split(' '), ...more])
}

const newKey = '-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'

export interface Minted {
  certPem: string
  keyPem: string
  certPath: string
  keyPath: string
}

export interface LeafWish {
  /** subjectAltName in openssl's notation, e.g. `URI:spiffe://…`. */
  san: string
  ca?: boolean
  /** Without key usage and purposes, and with a subject: what only the CA flag keeps from being an issuer. */
  bare?: boolean
  days?: number
}

export class Mint {
  readonly dir = mkdtempSync(join(tmpdir(), 'isthmus-mint-'))
  #count = 0

  /** A self-signed root, as a cluster's own CA makes it. */
  async root(trustDomain: string): Promise<Minted> {
    const paths = this.#paths()
    const extensions = [
      `subjectAltName=URI:spiffe://${trustDomain}`,
      'basicConstraints=critical,CA:TRUE',
      'keyUsage=critical,keyCertSign,cRLSign',
    ]
    const subject = `/CN=pri-${this.#count}.consul.ca`
    const output = ['-subj', subject, '-keyout', paths.keyPath, '-out', paths.certPath]
    await openssl(`req -x509 ${newKey} -days 30`, ...output, ...extensions.flatMap(extension => ['-addext', extension]))
    return this.#minted(paths)
  }

  /** A certificate with a new key, signed by `issuer`; `certPem` holds the chain that it would present. */
  async leaf(issuer: Minted, wish: LeafWish): Promise<Minted> {
    const paths = this.#paths()
    const csrPath = `${paths.certPath}.csr`
    const subject = wish.ca || wish.bare ? `/CN=named-${this.#count}` : '/'
    await openssl(`req -new ${newKey}`, '-subj', subject, '-keyout', paths.keyPath, '-out', csrPath)
    const certPem = await this.sign(issuer, readFileSync(csrPath, 'utf8'), wish)
    writeFileSync(paths.certPath, certPem)
    return this.#minted(paths)
  }

  /** Signs somebody's request. */
  async sign(issuer: Minted, csrPem: string, wish: LeafWish): Promise<string> {
    const { certPath } = this.#paths()
    const [csrPath, extPath] = [`${certPath}.csr`, `${certPath}.ext`]
    writeFileSync(csrPath, csrPem)
    const extensions = [`subjectAltName=critical,${wish.san}`, `basicConstraints=critical,CA:${wish.ca ? 'TRUE' : 'FALSE'}`]
    if (wish.ca) extensions.push('keyUsage=critical,keyCertSign,digitalSignature')
    else if (!wish.bare) extensions.push('keyUsage=critical,digitalSignature,keyEncipherment', 'extendedKeyUsage=clientAuth,serverAuth')
    writeFileSync(extPath, extensions.join('\n'))
    const authority = ['-CA', issuer.certPath, '-CAkey', issuer.keyPath, '-set_serial', String(this.#count + 1)]
    await openssl('x509 -req', '-in', csrPath, '-extfile', extPath, '-out', certPath, '-days', String(wish.days ?? 3), ...authority)
    return readFileSync(certPath, 'utf8')
  }

  /** The same certificate with an issuer's behind it, as a chain is presented. */
  chained(leaf: Minted, ...issuers: Minted[]): Minted {
    const paths = this.#paths()
    writeFileSync(paths.certPath, [leaf, ...issuers].map(each => each.certPem).join(''))
    return this.#minted({ certPath: paths.certPath, keyPath: leaf.keyPath })
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true })
  }

  #paths(): { certPath: string; keyPath: string } {
    this.#count += 1
    return { certPath: join(this.dir, `${this.#count}.crt`), keyPath: join(this.dir, `${this.#count}.key`) }
  }

  #minted(paths: { certPath: string; keyPath: string }): Minted {
    return { ...paths, certPem: readFileSync(paths.certPath, 'utf8'), keyPem: readFileSync(paths.keyPath, 'utf8') }
  }
}
