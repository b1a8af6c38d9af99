/**
 * Replays recorded HTTP requests against an agent of ours and compares the answers. What differs from run to run is put aside: ids,
 * indexes, times, certificates. Where a later request quotes an earlier answer (`?cas=129`), our own number takes its place.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'

export interface Recorded {
  name: string
  request: { method: string; path: string; headers: Record<string, string>; body: unknown }
  response: { status: number; headers: Record<string, string>; json?: unknown; text?: string; binary_length?: number }
}

/** What is compared: status, the headers that are the contract, and the body. */
export interface Answer {
  status: number
  headers: Record<string, string>
  body: unknown
}

const golden = 'test/golden/http'

/** The names of an area's recordings, in the order of their names. */
export function recordings(area: string): string[] {
  const files = existsSync(`${golden}/${area}`) ? readdirSync(`${golden}/${area}`) : []
  return files
    .filter(file => file.endsWith('.json'))
    .map(file => file.slice(0, -'.json'.length))
    .sort()
}

/** One of them, as `area/name`. */
export function recording(name: string): Recorded {
  return JSON.parse(readFileSync(`${golden}/${name}.json`, 'utf8')) as Recorded
}

export interface RawAnswer {
  status: number
  headers: Record<string, string>
  body: Buffer
}

/** One request with exactly these headers and this path; fetch would tidy both. */
export function ask(
  url: string,
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: Buffer | string,
): Promise<RawAnswer> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const request = httpRequest({ host: hostname, port, method, path, headers, agent: false }, response => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const names = Object.entries(response.headers).map(([name, value]) => [name, String(value)] as const)
        resolve({ status: response.statusCode ?? 0, headers: Object.fromEntries(names), body: Buffer.concat(chunks) })
      })
    })
    request.on('error', reject)
    request.end(body)
  })
}

/** The headers that are the contract; the index headers only where there is a result, because errors vary from endpoint to endpoint. */
const contractHeaders = [
  'content-type',
  'allow',
  'location',
  'vary',
  'x-consul-default-acl-policy',
  'x-consul-contenthash',
  'x-consul-reason',
  'x-content-type-options',
  'content-security-policy',
]
const metaHeaders = ['x-consul-knownleader', 'x-consul-lastcontact', 'x-consul-query-backend', 'x-consul-effective-consistency']

export class Replay {
  readonly #url: string
  /** Recorded indexes and ids to ours. */
  readonly #ours = new Map<string, string>()

  constructor(url: string) {
    this.#url = url
  }

  /** Both answers in the form in which they should be equal. */
  async play(recorded: Recorded): Promise<{ wanted: Answer; found: Answer }> {
    const { method, path, headers, body } = recorded.request
    const answer = await ask(this.#url, method, this.#translate(path), headers, requestBody(body))
    const { response } = recorded
    const recordedBody = 'json' in response ? response.json : (response.text ?? response.binary_length)
    const ourBody = parsed(answer, recorded)
    this.#learn(recordedBody, ourBody)
    const lower = Object.fromEntries(Object.entries(recorded.response.headers).map(([name, value]) => [name.toLowerCase(), value]))
    // A header's index may be a whole table's: a record's own ModifyIndex is the better pair.
    if (!this.#ours.has(lower['x-consul-index'] ?? '')) this.#pair(lower['x-consul-index'], answer.headers['x-consul-index'])
    return {
      wanted: { status: recorded.response.status, headers: kept(lower, recorded.response.status), body: settled(recordedBody) },
      found: { status: answer.status, headers: kept(answer.headers, answer.status), body: settled(ourBody) },
    }
  }

  /** A request that the recording's author made without recording it. */
  async aside(method: string, path: string, body?: unknown): Promise<void> {
    if (method === 'WAIT') return delay(Number(path))
    const answer = await ask(this.#url, method, path, {}, requestBody(body))
    if (answer.status !== 200) throw new Error(`${method} ${path}: ${answer.status} ${answer.body.toString()}`)
  }

  #translate(path: string): string {
    return path
      .replace(/\b(cas|index)=(\d+)/g, (whole, name: string, value: string) =>
        value.length < 2 ? whole : `${name}=${this.#ours.get(value) ?? value}`,
      )
      .replace(/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}/g, id => this.#ours.get(id) ?? id)
  }

  #pair(recorded: unknown, ours: unknown): void {
    if (typeof ours !== 'number' && typeof ours !== 'string') return
    if (typeof recorded === 'number' || typeof recorded === 'string') this.#ours.set(String(recorded), String(ours))
  }

  #learn(recorded: unknown, ours: unknown): void {
    if (typeof recorded !== 'object' || recorded === null || typeof ours !== 'object' || ours === null) return
    for (const [key, value] of Object.entries(recorded)) {
      const other = (ours as Record<string, unknown>)[key]
      if (key === 'ModifyIndex' || key === 'ID') this.#pair(value, other)
      else this.#learn(value, other)
    }
  }
}

function requestBody(body: unknown): Buffer | string | undefined {
  if (body === null || body === undefined) return undefined
  if (typeof body === 'string') return Buffer.from(body, 'latin1')
  const generated = (body as { _generated?: string })._generated ?? ''
  const bytes = /^(\d+) bytes/.exec(generated)
  if (bytes) return Buffer.alloc(Number(bytes[1]), 'x')
  // The value that was too large was told only in part.
  const ops = /^array of (\d+) ops \(total JSON (\d+) bytes\), first: (.*)$/.exec(generated)
  if (!ops) return JSON.stringify(body)
  const [, count, size, first] = ops as unknown as [string, string, string, string]
  return first.endsWith('}') ? `[${Array.from({ length: Number(count) }, () => first).join(', ')}]` : Buffer.alloc(Number(size), ' ')
}

function parsed(answer: RawAnswer, recorded: Recorded): unknown {
  if (recorded.response.binary_length !== undefined) return answer.body.length
  const text = answer.body.toString()
  return (answer.headers['content-type'] ?? '').startsWith('application/json') ? (JSON.parse(text) as unknown) : text
}

function kept(headers: Record<string, string>, status: number): Record<string, string> {
  const names = status < 400 || status === 404 ? [...contractHeaders, ...metaHeaders, 'x-consul-index'] : contractHeaders
  const found = names
    .filter(name => headers[name] !== undefined)
    .map(name => [name, name === 'x-consul-index' ? '#' : headers[name]!] as const)
  return Object.fromEntries(found)
}

const volatileKeys = new Set([
  'CreateIndex',
  'ModifyIndex',
  'CreatedAt',
  'UpdatedAt',
  'NotBefore',
  'NotAfter',
  'ValidAfter',
  'ValidBefore',
  'SerialNumber',
])

/** The value without what differs from run to run. A member that is there stays there. */
function settled(value: unknown, key = ''): unknown {
  // A config entry's Hash is a 64-bit number that clients ignore (spec/http-api.md 7): we have none.
  if (Array.isArray(value)) return value.map(each => settled(each))
  if (typeof value === 'object' && value !== null) {
    const members = Object.entries(value).filter(([name]) => name !== 'Hash')
    return Object.fromEntries(members.map(([name, each]) => [name, settled(each, name)]))
  }
  if (volatileKeys.has(key)) return '#'
  return typeof value === 'string' ? settledText(value, key) : value
}

function settledText(text: string, key: string): string {
  if (key === 'PeeringToken') return 'token'
  // Whether the first probe of a sidecar has already failed is a matter of milliseconds.
  if (key === 'Output' && text.startsWith('dial tcp ')) return ''
  return text
    .replace(/(current modify index) \d+/, '$1 #')
    .replace(/-----BEGIN [^-]+-----[\s\S]*?-----END [^-]+-----\n?/g, 'pem')
    .replace(/\b[0-9a-f]{2}(:[0-9a-f]{2}){19,31}\b/g, 'fingerprint')
    .replace(/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}/g, 'uuid')
    .replace(/\bpri-[a-z0-9]+\b/g, 'pri')
}
