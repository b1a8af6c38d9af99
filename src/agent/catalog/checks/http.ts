/** An HTTP check: 2xx passes, 429 warns, everything else is critical (spec/http-api.md 3). The whole exchange ends within its timeout. */
import http from 'node:http'
import https from 'node:https'
import { messageOf } from '../../../lib/errors.ts'
import type { CheckDefinition } from '../../../mesh/check.ts'
import { defaultOutputSize, timeoutOf, type Outcome } from './poll.ts'

const maxRedirects = 10
/** Not sent on to another host. */
const credentials = new Set(['authorization', 'cookie', 'proxy-authorization'])

interface Exchange {
  url: URL
  method: string
  headers: Record<string, string[]>
  body: string | undefined
}

interface Answer {
  status: number
  statusText: string
  location: string | undefined
  body: string
}

export async function checkHttp(definition: CheckDefinition, stop: AbortSignal): Promise<Outcome> {
  const target = definition.http ?? ''
  const method = (definition.method || 'GET').toUpperCase()
  const signal = AbortSignal.any([stop, AbortSignal.timeout(timeoutOf(definition))])
  try {
    const { status, statusText, body } = await follow(definition, method, signal)
    const output = `HTTP ${method} ${target}: ${status} ${statusText} Output: ${body}`
    if (status >= 200 && status < 300) return { status: 'passing', output }
    return { status: status === 429 ? 'warning' : 'critical', output }
  } catch (error) {
    const cause = signal.aborted ? 'context deadline exceeded' : messageOf(error)
    return { status: 'critical', output: `${method[0]}${method.slice(1).toLowerCase()} "${target}": ${cause}` }
  }
}

async function follow(definition: CheckDefinition, method: string, signal: AbortSignal): Promise<Answer> {
  let exchange: Exchange = { url: new URL(definition.http ?? ''), method, headers: definition.header ?? {}, body: definition.body }
  for (let hops = 0; ; hops += 1) {
    const answer = await request(exchange, definition, signal)
    const redirected = [301, 302, 303, 307, 308].includes(answer.status) && answer.location !== undefined
    if (!redirected || definition.disableRedirects) return answer
    if (hops === maxRedirects) throw new Error(`stopped after ${maxRedirects} redirects`)
    exchange = redirect(exchange, answer)
  }
}

function redirect(exchange: Exchange, answer: Answer): Exchange {
  const url = new URL(answer.location!, exchange.url)
  const keepsBody = answer.status === 307 || answer.status === 308 || exchange.method === 'HEAD'
  const isSameHost = url.host === exchange.url.host
  const headers = Object.entries(exchange.headers).filter(([name]) => {
    const lower = name.toLowerCase()
    return lower !== 'host' && (isSameHost || !credentials.has(lower))
  })
  return {
    url,
    method: keepsBody ? exchange.method : 'GET',
    headers: Object.fromEntries(headers),
    body: keepsBody ? exchange.body : undefined,
  }
}

function request({ url, method, headers, body }: Exchange, definition: CheckDefinition, signal: AbortSignal): Promise<Answer> {
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    return Promise.reject(new Error(`unsupported protocol scheme "${url.protocol.slice(0, -1)}"`))
  }
  return new Promise((resolve, reject) => {
    const options: https.RequestOptions = {
      method,
      headers: { 'User-Agent': 'Consul Health Check', Accept: 'text/plain, text/*, */*', ...singly(headers) },
      agent: false,
      signal,
      ...(url.protocol === 'https:'
        ? { rejectUnauthorized: !definition.tlsSkipVerify, ...(definition.tlsServerName ? { servername: definition.tlsServerName } : {}) }
        : {}),
    }
    const send = url.protocol === 'https:' ? https.request : http.request
    const sent = send(url, options, response => {
      readTail(response, definition.outputMaxSize || defaultOutputSize).then(
        text =>
          resolve({
            status: response.statusCode ?? 0,
            statusText: response.statusMessage ?? '',
            location: response.headers.location,
            body: text,
          }),
        reject,
      )
    })
    sent.on('error', reject)
    sent.end(body)
  })
}

/** Node takes a list only for headers that may repeat, and Host may not. */
function singly(headers: Record<string, string[]>): Record<string, string | string[]> {
  return Object.fromEntries(Object.entries(headers).map(([name, values]) => [name, values.length === 1 ? values[0]! : values]))
}

/** The last bytes of a body; the rest is read and forgotten. */
async function readTail(response: http.IncomingMessage, limit: number): Promise<string> {
  let tail = Buffer.alloc(0)
  for await (const chunk of response as AsyncIterable<Buffer>) {
    tail = chunk.length >= limit ? Buffer.from(chunk.subarray(chunk.length - limit)) : Buffer.concat([tail, chunk])
    if (tail.length > limit) tail = tail.subarray(tail.length - limit)
  }
  return tail.toString('utf8')
}
