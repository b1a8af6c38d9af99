/**
 * The calls of a proxy to its agent (wire/internal-api), over TCP or a unix socket. The agent is believed only as far as it is
 * parsed: every answer has a limit on size and time.
 */
import { request as requestHttp, type ClientRequest, type IncomingMessage, type RequestOptions } from 'node:http'
import { request as requestHttps } from 'node:https'
import { MeshError, messageOf } from '../lib/errors.ts'

export interface AgentAddress {
  /** `http://127.0.0.1:8500`, `https://…` or `unix:///path/to/socket`. */
  url: string
  token?: string | undefined
}

const answerLimits = { maxBytes: 1024 * 1024, timeoutMs: 10_000 } as const

export class AgentClient {
  readonly #address: AgentAddress

  constructor(address: AgentAddress) {
    this.#address = address
    if (!/^(?:https?|unix):\/\//.test(address.url)) {
      throw new MeshError('bad-request', `the agent address "${address.url}" has no http://, https:// or unix:// in front: add it`)
    }
  }

  /** Opens a streamed answer. The caller reads it and owns its end. */
  stream(path: string, onAnswer: (answer: IncomingMessage) => void, onFailure: (message: string) => void): ClientRequest {
    const request = this.#request('GET', path, {})
    request.on('response', onAnswer)
    request.on('error', error => onFailure(messageOf(error)))
    request.setTimeout(answerLimits.timeoutMs, () => request.destroy(new Error('the agent is silent')))
    request.end()
    return request
  }

  /** Sends JSON, gives the JSON of a 200; throws what else came. */
  put(path: string, body: unknown, signal: AbortSignal): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const request = this.#request('PUT', path, { 'content-type': 'application/json' }, signal)
      request.on('error', reject)
      request.setTimeout(answerLimits.timeoutMs, () => request.destroy(new Error('the agent is silent')))
      request.on('response', answer => {
        readText(answer)
          .then(text => {
            if (answer.statusCode !== 200)
              throw new MeshError('unavailable', `the agent answered ${answer.statusCode}: ${text.slice(0, 512)}`)
            resolve(JSON.parse(text))
          }, reject)
          .catch(reject)
      })
      request.end(JSON.stringify(body))
    })
  }

  #request(method: string, path: string, headers: Record<string, string>, signal?: AbortSignal): ClientRequest {
    const { url, token } = this.#address
    const options: RequestOptions = {
      method,
      path,
      agent: false,
      headers: { host: 'localhost', ...headers, ...(token ? { 'x-consul-token': token } : {}) },
      ...(signal ? { signal } : {}),
    }
    if (url.startsWith('unix://')) return requestHttp({ ...options, socketPath: url.slice('unix://'.length) })
    const { protocol, hostname, port, host } = new URL(url)
    Object.assign(options, { host: hostname.replace(/^\[|\]$/g, ''), port })
    options.headers = { ...(options.headers as Record<string, string>), host }
    return protocol === 'https:' ? requestHttps(options) : requestHttp(options)
  }
}

function readText(answer: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let length = 0
    answer.on('data', (chunk: Buffer) => {
      length += chunk.length
      if (length > answerLimits.maxBytes) answer.destroy(new Error('the answer of the agent is too long'))
      else chunks.push(chunk)
    })
    answer.on('error', reject)
    answer.on('close', () =>
      answer.complete ? resolve(Buffer.concat(chunks).toString('utf8')) : reject(new Error('the answer of the agent broke off')),
    )
  })
}
