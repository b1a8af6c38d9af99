/**
 * The agent's HTTP API as commands use it: one request, one answer, over TCP, TLS or a unix socket. Errors read as Consul's do, and
 * say what to do next; a token never shows in one.
 */
import type { Command } from 'commander'
import { readdirSync, readFileSync } from 'node:fs'
import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage, type RequestOptions } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { join } from 'node:path'
import { messageOf } from '../lib/errors.ts'
import { CliError, fromEnvironment, type CliContext } from './context.ts'

/** The flags that every command of the API has (spec/cli.md 1), as commander gives them. */
export interface HttpFlags {
  httpAddr?: string
  token?: string
  tokenFile?: string
  caFile?: string
  caPath?: string
  clientCert?: string
  clientKey?: string
  tlsServerName?: string
  datacenter?: string
  stale?: boolean
}

export function withHttpFlags(command: Command): Command {
  return command
    .option('--http-addr <address>', 'the agent: host:port, http(s)://host:port or unix:///path (ISTHMUS_HTTP_ADDR, CONSUL_HTTP_ADDR)')
    .option(
      '--token <token>',
      'token; better in a file or in ISTHMUS_HTTP_TOKEN or CONSUL_HTTP_TOKEN, because arguments can be seen by others',
    )
    .option('--token-file <file>', 'file that holds the token (ISTHMUS_HTTP_TOKEN_FILE, CONSUL_HTTP_TOKEN_FILE)')
    .option('--ca-file <file>', 'CA that the agent proves itself with (ISTHMUS_CACERT, CONSUL_CACERT)')
    .option('--ca-path <dir>', 'directory of CA files (ISTHMUS_CAPATH, CONSUL_CAPATH)')
    .option('--client-cert <file>', 'certificate to show to the agent (ISTHMUS_CLIENT_CERT, CONSUL_CLIENT_CERT)')
    .option('--client-key <file>', 'key of that certificate (ISTHMUS_CLIENT_KEY, CONSUL_CLIENT_KEY)')
    .option('--tls-server-name <name>', 'name to expect in the certificate of the agent (ISTHMUS_TLS_SERVER_NAME, CONSUL_TLS_SERVER_NAME)')
    .option('--datacenter <name>', 'datacenter to ask; that of the agent unless told')
    .option('--stale', 'take an answer from any server, even one that lags')
}

export interface Call {
  query?: Record<string, string | number | readonly string[] | undefined>
  /** Sent as JSON; a Buffer as it is. */
  body?: unknown
  signal?: AbortSignal | undefined
}

export interface Answer {
  status: number
  headers: IncomingHttpHeaders
  body: Buffer
}

/** Reads never wait longer than this for the next byte. */
const idleTimeoutMs = 60_000
const maxAnswerBytes = 256 * 1024 * 1024
const defaultAddress = '127.0.0.1:8500'

interface Target {
  /** As messages show it. */
  shown: string
  options: RequestOptions
  secure: boolean
}

export class AgentClient {
  readonly #target: Target
  readonly #token: string | undefined
  /** `user:password` for a proxy in front of the agent (CONSUL_HTTP_AUTH). */
  readonly #auth: string | undefined
  readonly #query: Record<string, string | undefined>

  constructor(flags: HttpFlags, context: CliContext) {
    this.#target = targetOf(flags, context)
    this.#token = tokenOf(flags, context)
    this.#auth = fromEnvironment(context, 'HTTP_AUTH')
    this.#query = { dc: flags.datacenter, stale: flags.stale ? '' : undefined }
  }

  get address(): string {
    return this.#target.shown
  }

  /** The same agent, for a proxy. */
  get endpoint(): { url: string; token: string | undefined } {
    return { url: this.#target.shown, token: this.#token }
  }

  /** Any answer below 300, and those in `also`, which the caller reads itself. */
  async call(method: string, path: string, call: Call = {}, also: number[] = []): Promise<Answer> {
    let answer = await this.#exchange(method, path, call)
    // A key with empty or dotted parts: the agent says what it is called, as Go's clients then call it.
    const clean = answer.status === 307 ? /^\/[^?]*/.exec(answer.headers.location ?? '')?.[0] : undefined
    if (clean !== undefined) answer = await this.#exchange(method, clean, call)
    if (answer.status >= 300 && !also.includes(answer.status)) throw unexpected(answer)
    return answer
  }

  async json<T>(method: string, path: string, call: Call = {}): Promise<T> {
    const { body } = await this.call(method, path, call)
    return this.parse(body) as T
  }

  /** An answer that has no end of its own: given on as it comes, however long nothing does, until it ends after all or `call.signal` is aborted. */
  async stream(method: string, path: string, call: Call, write: (chunk: Buffer) => void): Promise<void> {
    const answer = await this.#exchange(method, path, call, write).catch((error: unknown) => {
      if (!call.signal?.aborted) throw error
    })
    if (answer && answer.status >= 300) throw unexpected(answer)
  }

  /** An answer as JSON; one that is none comes from something that is no agent. */
  parse(body: Buffer): unknown {
    try {
      return JSON.parse(body.toString())
    } catch (error) {
      throw new CliError(
        `${this.#target.shown} did not answer in JSON (${messageOf(error)}); check that --http-addr is the HTTP address of an agent`,
      )
    }
  }

  /** With `write`, what a good answer holds goes there. */
  #exchange(method: string, path: string, call: Call, write?: (chunk: Buffer) => void): Promise<Answer> {
    const { options, secure, shown } = this.#target
    const query = new URLSearchParams()
    for (const [name, value] of Object.entries({ ...this.#query, ...call.query })) {
      for (const each of Array.isArray(value) ? (value as readonly string[]) : [value])
        if (each !== undefined) query.append(name, String(each))
    }
    const target = query.size === 0 ? path : `${path}?${query.toString()}`
    const payload = call.body === undefined ? undefined : Buffer.isBuffer(call.body) ? call.body : Buffer.from(JSON.stringify(call.body))
    const headers: Record<string, string | number> = { connection: 'close' }
    if (payload) headers['content-length'] = payload.length
    if (payload && !Buffer.isBuffer(call.body)) headers['content-type'] = 'application/json'
    if (this.#token) headers['x-consul-token'] = this.#token
    if (this.#auth) headers['authorization'] = `Basic ${Buffer.from(this.#auth).toString('base64')}`
    return new Promise((resolve, reject) => {
      const fail = (error: unknown) => reject(unreachable(method, `${shown}${target}`, shown, error))
      const send = secure ? httpsRequest : httpRequest
      const outgoing = send(
        { ...options, agent: false, method, path: target, headers, signal: call.signal, timeout: idleTimeoutMs },
        incoming => {
          const status = incoming.statusCode ?? 0
          const take = write && status < 300 ? forward(incoming, write) : collect(incoming)
          take.then(body => resolve({ status, headers: incoming.headers, body }), fail)
        },
      )
      outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer within ${idleTimeoutMs / 1000}s`)))
      outgoing.on('error', fail)
      outgoing.end(payload)
    })
  }
}

function unexpected({ status, body }: Answer): CliError {
  return new CliError(`Unexpected response code: ${status} (${body.toString().trim()})`)
}

async function forward(incoming: IncomingMessage, write: (chunk: Buffer) => void): Promise<Buffer> {
  incoming.socket.setTimeout(0)
  for await (const chunk of incoming as AsyncIterable<Buffer>) write(chunk)
  return Buffer.alloc(0)
}

async function collect(incoming: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > maxAnswerBytes) throw new Error(`answer longer than ${maxAnswerBytes} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function targetOf(flags: HttpFlags, context: CliContext): Target {
  const text = flags.httpAddr ?? fromEnvironment(context, 'HTTP_ADDR') ?? defaultAddress
  if (text.startsWith('unix://')) {
    return { shown: text, secure: false, options: { socketPath: text.slice('unix://'.length), host: 'localhost' } }
  }
  const scheme = /^true$|^1$/i.test(fromEnvironment(context, 'HTTP_SSL') ?? '') ? 'https' : 'http'
  let url: URL
  try {
    url = new URL(/^[a-z]+:\/\//i.test(text) ? text : `${scheme}://${text}`)
  } catch (error) {
    throw badAddress(text, error)
  }
  if ((url.protocol !== 'http:' && url.protocol !== 'https:') || url.hostname === '') throw badAddress(text)
  const secure = url.protocol === 'https:'
  const hasPort = url.port !== '' || /:\d+\/?$/.test(text)
  const port = url.port === '' ? (hasPort ? (secure ? 443 : 80) : 8500) : Number(url.port)
  const tls = secure ? tlsOptions(flags, context) : {}
  return {
    shown: `${url.protocol}//${url.hostname}:${port}`,
    secure,
    options: { host: url.hostname.replace(/^\[(.+)\]$/, '$1'), port, ...tls },
  }
}

function badAddress(text: string, cause?: unknown): CliError {
  return new CliError(
    `${JSON.stringify(text)} is not an address of an agent; write it as 127.0.0.1:8500, https://host:8501 or unix:///path/to/socket`,
    1,
    { cause },
  )
}

function tlsOptions(flags: HttpFlags, context: CliContext): Record<string, unknown> {
  const file = (path: string | undefined) => (path === undefined ? undefined : readFile(path))
  return {
    ca: caOf(flags, context),
    cert: file(flags.clientCert ?? fromEnvironment(context, 'CLIENT_CERT')),
    key: file(flags.clientKey ?? fromEnvironment(context, 'CLIENT_KEY')),
    servername: flags.tlsServerName ?? fromEnvironment(context, 'TLS_SERVER_NAME'),
    rejectUnauthorized: !/^(?:false|0)$/i.test(fromEnvironment(context, 'HTTP_SSL_VERIFY') ?? ''),
  }
}

/** One file, else all of a directory. */
function caOf(flags: HttpFlags, context: CliContext): Buffer[] | undefined {
  const file = flags.caFile ?? fromEnvironment(context, 'CACERT')
  if (file !== undefined) return [readFile(file)]
  const directory = flags.caPath ?? fromEnvironment(context, 'CAPATH')
  if (directory === undefined) return undefined
  let names: string[]
  try {
    names = readdirSync(directory).sort()
  } catch (error) {
    throw new CliError(`Failed to read directory: ${messageOf(error)}`, 1, { cause: error })
  }
  return names.map(name => readFile(join(directory, name)))
}

/** The flag, the flag's file, then the environment. */
function tokenOf(flags: HttpFlags, context: CliContext): string | undefined {
  const file = flags.tokenFile ?? fromEnvironment(context, 'HTTP_TOKEN_FILE')
  if (flags.token !== undefined) return checkToken(flags.token)
  if (flags.tokenFile === undefined) {
    const token = fromEnvironment(context, 'HTTP_TOKEN')
    if (token !== undefined) return checkToken(token)
  }
  return file === undefined ? undefined : checkToken(readFile(file).toString().trim())
}

function checkToken(token: string): string {
  if (!/^[\x21-\x7e]*$/.test(token))
    throw new CliError('the token has characters that no token has; check for line breaks and blanks in it')
  return token
}

/** A file that the operator named. */
export function readFile(path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    throw new CliError(`Failed to read file: ${messageOf(error)}`, 1, { cause: error })
  }
}

const verbs: Record<string, string> = { GET: 'Get', PUT: 'Put', POST: 'Post', DELETE: 'Delete' }

/** Go's wording, which scripts look for, then what to do. */
function unreachable(method: string, url: string, shown: string, error: unknown): CliError {
  const code = (error as NodeJS.ErrnoException).code ?? (error as { errors?: NodeJS.ErrnoException[] }).errors?.[0]?.code ?? ''
  const bare = shown.replace(/^(?:https?|unix):\/\//, '')
  const cause =
    code === 'ECONNREFUSED'
      ? `dial ${shown.startsWith('unix:') ? 'unix' : 'tcp'} ${bare}: connect: connection refused`
      : code === 'ENOENT'
        ? `dial unix ${bare}: connect: no such file or directory`
        : messageOf(error)
  return new CliError(`${verbs[method] ?? method} "${url}": ${cause}\n${nextStep(code, shown)}`, 1, { cause: error })
}

function nextStep(code: string, shown: string): string {
  if (/^(?:ECONNREFUSED|ENOENT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ETIMEDOUT)$/.test(code)) {
    return `Nothing answers at ${shown}. Start an agent (isthmus agent, or isthmus dev to try things out), or say where it is with --http-addr or ISTHMUS_HTTP_ADDR.`
  }
  if (/CERT|SIGNATURE|^ERR_(?:TLS|SSL)|^EPROTO$/.test(code)) {
    return `The connection to ${shown} could not be secured. Name the agent's CA with --ca-file and the name in its certificate with --tls-server-name, and check that the address is one for https.`
  }
  return `${shown} answers, but not as an agent does. Check that --http-addr is the HTTP address of an agent, and look into its log.`
}
