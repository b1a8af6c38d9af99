/**
 * The CA's configuration as Consul's API shows it (spec/http-api.md 9): `config` is the provider's own map, kept as it was given,
 * over the defaults; what it means is read from it in one place, with Consul's texts. A configuration that is stored is valid.
 */
import * as z from 'zod'
import { formatDuration, parseDuration } from '../../lib/duration.ts'
import { MeshError } from '../../lib/errors.ts'
import { decode } from '../../lib/shape.ts'
import type { KeyKind } from './certificate.ts'

export const CaConfiguration = z.object({
  provider: z.string().default('consul'),
  config: z.record(z.string(), z.unknown()).default({}),
  state: z.record(z.string(), z.string()).nullable().default(null),
  forceWithoutCrossSigning: z.boolean().default(false),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
})
export type CaConfiguration = z.infer<typeof CaConfiguration>

/** What the map means. */
export interface CaSettings {
  leafTtlMs: number
  intermediateTtlMs: number
  rootTtlMs: number
  key: KeyKind
  /** 0: no limit. */
  csrMaxPerSecond: number
}

const hourMs = 3_600_000
export const defaultConfig = { IntermediateCertTTL: '8760h', LeafCertTTL: '72h', RootCertTTL: '87600h' } as const
const known = [
  'IntermediateCertTTL',
  'LeafCertTTL',
  'RootCertTTL',
  'PrivateKeyType',
  'PrivateKeyBits',
  'CSRMaxPerSecond',
  'CSRMaxConcurrent',
  'SkipValidate',
]
const wireNames = new Map(known.map(name => [name.toLowerCase(), name]))

/** Reads what a client sent; throws with the text that Consul's clients know. */
export function readConfiguration(input: unknown): CaConfiguration {
  const decoded = decode(CaConfiguration, input)
  if (!decoded.ok) {
    const { path, message } = decoded.issues[0]!
    throw new MeshError('bad-request', `Request decode failed: ${path === '' ? '' : `${path}: `}${message}`)
  }
  const { provider, config } = decoded.value
  if (provider !== 'consul')
    throw new MeshError('invalid', `could not initialize provider: unknown CA provider ${JSON.stringify(provider)}`)
  const merged: Record<string, unknown> = { ...defaultConfig }
  for (const [key, value] of Object.entries(config)) {
    const folded = key.toLowerCase().replaceAll('_', '')
    // Someone else's CA key would have to pass through here, and out again in GET.
    if ((folded === 'privatekey' || folded === 'rootcert') && value !== '') {
      throw new MeshError('unsupported', `error configuring provider: ${key} is not supported; leave it out and the CA makes its own key`)
    }
    const name = wireNames.get(folded)
    if (name !== undefined) merged[name] = value
  }
  readSettings(merged)
  return { ...decoded.value, config: merged, state: null, createIndex: 0, modifyIndex: 0 }
}

/** Reads, and checks, the provider's map. */
export function readSettings(config: Record<string, unknown>): CaSettings {
  const settings: CaSettings = {
    leafTtlMs: ttl(config, 'LeafCertTTL'),
    intermediateTtlMs: ttl(config, 'IntermediateCertTTL'),
    rootTtlMs: ttl(config, 'RootCertTTL'),
    key: {
      type: (config.PrivateKeyType ?? 'ec') as KeyKind['type'],
      bits: number(config, 'PrivateKeyBits', config.PrivateKeyType === 'rsa' ? 2048 : 256),
    },
    csrMaxPerSecond: number(config, 'CSRMaxPerSecond', 50),
  }
  const problem = problemOf(settings)
  if (problem !== undefined) throw new MeshError('invalid', `error configuring provider: ${problem}`)
  return settings
}

function problemOf({ leafTtlMs, intermediateTtlMs, rootTtlMs, key, csrMaxPerSecond }: CaSettings): string | undefined {
  if (rootTtlMs < intermediateTtlMs) {
    return `root cert TTL is set and is not greater than intermediate cert ttl. root cert ttl: ${formatDuration(rootTtlMs)}, intermediate cert ttl: ${formatDuration(intermediateTtlMs)}`
  }
  if (leafTtlMs < hourMs) return 'leaf cert TTL must be greater or equal than 1h0m0s'
  if (leafTtlMs > 8760 * hourMs) return 'leaf cert TTL must be less than 8760h0m0s'
  if (intermediateTtlMs < 3 * hourMs) return 'Intermediate Cert TTL must be greater or equal than 3h'
  if (intermediateTtlMs < 3 * leafTtlMs) {
    return `Intermediate Cert TTL must be greater or equal than 3 * LeafCertTTL (>=${formatDuration(3 * leafTtlMs)}).`
  }
  // A date beyond the year 9999 has no form in a certificate.
  if (rootTtlMs > 1000 * 8760 * hourMs) return 'root cert TTL must be less than 8760000h0m0s'
  if (csrMaxPerSecond < 0) return 'CSRMaxPerSecond must be 0 (no limit) or greater'
  if (key.type === 'ec')
    return [224, 256, 384, 521].includes(key.bits) ? undefined : 'EC key length must be one of (224, 256, 384, 521) bits'
  if (key.type === 'rsa') return [2048, 4096].includes(key.bits) ? undefined : 'RSA key length must be 2048 or 4096 bits'
  return "private key type must be either 'ec' or 'rsa'"
}

/** A Go duration, or nanoseconds. */
function ttl(config: Record<string, unknown>, name: string): number {
  const value = config[name]
  const ms = typeof value === 'number' ? value / 1e6 : parseDuration(String(value))
  if (ms === undefined || !Number.isFinite(ms)) {
    throw new MeshError(
      'invalid',
      `error configuring provider: error decoding config: ${name}: time: invalid duration ${JSON.stringify(value)}`,
    )
  }
  return ms
}

function number(config: Record<string, unknown>, name: string, otherwise: number): number {
  const value = config[name]
  if (value === undefined || value === null || value === '') return otherwise
  const read = Number(value)
  if (!Number.isFinite(read)) {
    throw new MeshError('invalid', `error configuring provider: error decoding config: ${name}: ${JSON.stringify(value)} is not a number`)
  }
  return read === 0 && name === 'PrivateKeyBits' ? otherwise : read
}
