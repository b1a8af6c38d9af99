/**
 * Replays recorded HTTP requests against an agent of ours and compares the answers. What differs from run to run is put aside: ids,
 * indexes, times, certificates. Where a later request quotes an earlier answer (`?cas=129`), our own number takes its place.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'

export interface Recorded {
  name: string
  /** Which of the recorded agents was asked. */
  agent: string
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

/** Where the agents of the recording stand in for are, by their recorded names. */
export interface Stand {
  url: string
  /** Ports of its own, which the recording has others for. */
  ports: readonly number[]
}

export class Replay {
  readonly #stands: Map<string, Stand>
  /** Recorded indexes, ids and tokens to ours; indexes are each agent's own. */
  readonly #ours = new Map<string, string>()
  /** The token that an aside made last: stands for one that the recording does not show being made. */
  #fresh: string | undefined

  constructor(stands: Record<string, Stand>) {
    this.#stands = new Map(Object.entries(stands))
  }

  set(agent: string, stand: Stand): void {
    this.#stands.set(agent, stand)
  }

  #stand(agent: string): Stand {
    const stand = this.#stands.get(agent)
    if (!stand) throw new Error(`no agent stands for ${agent}`)
    return stand
  }

  /** Both answers in the form in which they should be equal; lists in no order where theirs means nothing. */
  async play(recorded: Recorded, unordered = false): Promise<{ wanted: Answer; found: Answer }> {
    const { agent, request, response } = recorded
    const { url } = this.#stand(agent)
    const answer = await ask(url, request.method, this.#translate(agent, request.path), request.headers, this.#body(request.body))
    const recordedBody = 'json' in response ? response.json : (response.text ?? response.binary_length)
    const ourBody = parsed(answer, recorded)
    this.#learn(agent, recordedBody, ourBody)
    const lower = Object.fromEntries(Object.entries(recorded.response.headers).map(([name, value]) => [name.toLowerCase(), value]))
    // A header's index may be a whole table's: a record's own ModifyIndex is the better pair.
    if (!this.#ours.has(`${agent} ${lower['x-consul-index'] ?? ''}`))
      this.#pair(agent, lower['x-consul-index'], answer.headers['x-consul-index'])
    // One tells of the others' ports, too.
    const settler = new Settler(
      [...this.#stands.values()].flatMap(stand => stand.ports),
      unordered,
    )
    return {
      wanted: { status: recorded.response.status, headers: kept(lower, recorded.response.status), body: settler.settle(recordedBody) },
      found: { status: answer.status, headers: kept(answer.headers, answer.status), body: settler.settle(ourBody) },
    }
  }

  /**
   * What the recording's author did without recording it: a request (to alpha, or to whom stands before the path: `beta:/v1/...`), or
   * one that is made again `UNTIL` its answer contains a text, or is the empty list, or a `WAIT` of so many ms.
   */
  async aside(method: string, target: string, body?: unknown): Promise<void> {
    if (method === 'WAIT') return delay(Number(target))
    const [, agent = 'alpha', path] = /^(?:(\w+):)?(\/.*)$/.exec(target) as unknown as [string, string | undefined, string]
    const { url } = this.#stand(agent)
    for (let attempt = 0; ; attempt += 1) {
      const answer = await ask(url, method === 'UNTIL' ? 'GET' : method, path, {}, method === 'UNTIL' ? undefined : this.#body(body))
      const text = answer.body.toString()
      if (method === 'UNTIL' ? (body === '[]' ? text === body : text.includes(body as string)) : answer.status === 200) {
        if (path === '/v1/peering/token') this.#fresh = (JSON.parse(text) as { PeeringToken: string }).PeeringToken
        return
      }
      if (method !== 'UNTIL' || attempt === 400) throw new Error(`${method} ${path}: ${answer.status} ${text}`)
      await delay(25)
    }
  }

  #body(body: unknown): Buffer | string | undefined {
    const token = (body as { PeeringToken?: string } | null | undefined)?.PeeringToken
    const ours = token === undefined ? undefined : (this.#ours.get(token) ?? (token.length > 1000 ? this.#fresh : undefined))
    return requestBody(ours === undefined ? body : { ...(body as object), PeeringToken: ours })
  }

  #translate(agent: string, path: string): string {
    return path
      .replace(/\b(cas|index)=(\d+)/g, (whole, name: string, value: string) =>
        value.length < 2 ? whole : `${name}=${this.#ours.get(`${agent} ${value}`) ?? value}`,
      )
      .replace(/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}/g, id => this.#ours.get(`${agent} ${id}`) ?? id)
  }

  #pair(agent: string, recorded: unknown, ours: unknown): void {
    if (typeof ours !== 'number' && typeof ours !== 'string') return
    if (typeof recorded === 'number' || typeof recorded === 'string') this.#ours.set(`${agent} ${recorded}`, String(ours))
  }

  #learn(agent: string, recorded: unknown, ours: unknown): void {
    if (typeof recorded !== 'object' || recorded === null || typeof ours !== 'object' || ours === null) return
    // The order of random ids says nothing about which is which.
    if (Array.isArray(recorded) && recorded.length > 1 && isRandom(recorded)) return
    for (const [key, value] of Object.entries(recorded)) {
      const other = (ours as Record<string, unknown>)[key]
      if (key === 'ModifyIndex' || key === 'ID') this.#pair(agent, value, other)
      else if (key === 'PeeringToken') this.#ours.set(value as string, other as string)
      else this.#learn(agent, value, other)
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
  // Only that there are some bytes is the same in every run.
  if (recorded.response.binary_length !== undefined) return answer.body.length > 0 ? recorded.response.binary_length : 0
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
  'PrimaryModifyIndex',
  'LastIndex',
  'CreatedAt',
  'UpdatedAt',
  'DeletedAt',
  'StableSince',
  'LastHeartbeat',
  'LastReceive',
  'LastSend',
  'NotBefore',
  'NotAfter',
  'ValidAfter',
  'ValidBefore',
  'SerialNumber',
  'CollectionTime',
  'Timestamp',
])
/** A config entry's Hash is a 64-bit number that clients ignore (spec/http-api.md 7); the recorded agents had a plaintext gRPC port, too;
 * how fresh what a peer told us is, and what its operator should know, is isthmus's own. */
const leftOut = new Set(['Hash', 'grpc_port', 'Plaintext', 'Freshness', 'ImportedFreshness', 'Warnings'])
const uuid = /[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}/g
const isUuid = new RegExp(`^${uuid.source}$`)

/** A list of things that have random ids, and no other order. */
function isRandom(list: readonly unknown[]): boolean {
  return list.every(each => typeof each === 'object' && each !== null && isUuid.test((each as { ID?: string }).ID ?? ''))
}

/** Consul's own ports stand for each agent's. */
const recordedPort = /^23[0-2]\d\d$/
const defaultPorts = ['8300', '8301', '8302']

/** A value without what differs from run to run. A member that is there stays there. */
class Settler {
  readonly #ports: ReadonlySet<string>
  readonly #unordered: boolean

  constructor(ports: readonly number[], unordered: boolean) {
    this.#unordered = unordered
    this.#ports = new Set([...defaultPorts, ...ports.map(String)])
  }

  settle(value: unknown, key = ''): unknown {
    if (Array.isArray(value)) return this.#list(value)
    if (typeof value === 'object' && value !== null) {
      const members = Object.entries(value).filter(([name]) => !leftOut.has(name))
      return Object.fromEntries(members.map(([name, each]) => [name.replace(uuid, 'uuid'), this.settle(each, name)]))
    }
    // The first comes after fifteen seconds.
    if (key === 'LastHeartbeat') return '#'
    if (volatileKeys.has(key) && value !== null) return '#'
    // Beside the other query metadata of a body; an operation of a transaction has no such member in its answer.
    if (key === 'Index' && typeof value === 'number') return '#'
    if (typeof value === 'number') return this.#isPort(String(value)) ? 'port' : value
    return typeof value === 'string' ? this.#text(value, key) : value
  }

  /** A list in the order of its random ids has none, either. */
  #list(value: unknown[]): unknown[] {
    const settled = value.map(each => this.settle(each))
    if (!this.#unordered && !isRandom(value)) return settled
    return settled
      .map(each => [JSON.stringify(each), each] as const)
      .sort((a, b) => (a[0] < b[0] ? -1 : 1))
      .map(pair => pair[1])
  }

  #isPort(text: string): boolean {
    return recordedPort.test(text) || this.#ports.has(text)
  }

  #text(text: string, key: string): string {
    if (key === 'PeeringToken') return 'token'
    // Whether the first probe of a sidecar has already failed is a matter of milliseconds.
    if (key === 'Output' && text.startsWith('dial tcp ')) return ''
    if (this.#isPort(text)) return 'port'
    return text
      .replace(/(?<=127\.0\.0\.1:)(\d+)/g, port => (this.#isPort(port) ? 'port' : port))
      .replace(/(current modify index) \d+/, '$1 #')
      .replace(/-----BEGIN [^-]+-----[\s\S]*?-----END [^-]+-----\n?/g, 'pem')
      .replace(/\b[0-9a-f]{2}(:[0-9a-f]{2}){19,31}\b/g, 'fingerprint')
      .replace(uuid, 'uuid')
      .replace(/\bpri-[a-z0-9]+\b/g, 'pri')
      .replace(/\b240\.0\.\d+\.\d+\b/g, 'virtual')
  }
}
