/**
 * The live half of `why`: the request itself, through the sidecar's upstream listener as the app would send it, and beside it one TLS
 * handshake with each endpoint, which shows the server's certificate without a client certificate of ours. It sends nothing else.
 */
import { request as requestHttp, type ClientRequest } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { connect as connectTcp } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { isHttp2, isHttpLike } from '../mesh/protocol.ts'
import type { Verdict, WhyCode, WhyProbe, WhyReport } from '../mesh/why-report.ts'
import { permitOf, presentedChain, readBundle, uriOf } from '../proxy/permit.ts'

const limits = { requestMs: 15_000, handshakeMs: 5000, quietMs: 500, endpoints: 16, bodyBytes: 4096 } as const

/** How the answer of a sidecar ends that cannot reach its app, or an endpoint (Envoy's words). */
const appFailure = 'reset reason: remote connection failure'

export interface EndpointProbe {
  at: string
  target: string
  code?: WhyCode
  text: string
}

export interface ProbeReport {
  sent: string
  outcome: string
  verdict: Verdict
  status?: number
  /** What the path itself shows of the code that explains the outcome. */
  code?: WhyCode
  agrees: boolean
  /** How the live outcome differs from the explanation; empty where it does not. */
  differs: string
  endpoints: EndpointProbe[]
}

interface Outcome {
  verdict: Verdict
  text: string
  status?: number
}

export async function probe(report: WhyReport, path: string, headers: readonly string[]): Promise<ProbeReport> {
  const { probe: facts, request } = report
  const sent = `${request.method} ${path}`
  if (facts === undefined || (facts.listen.port === 0 && facts.listen.socketPath === undefined)) {
    const outcome = 'there is no upstream listener on this side to send it through'
    return { sent, outcome, verdict: 'unknown', agrees: false, differs: '', endpoints: [] }
  }
  const handshakes = facts.targets.flatMap(target =>
    target.endpoints.slice(0, limits.endpoints).map(endpoint => shake(target, endpoint, facts.protocol)),
  )
  const [outcome, ...endpoints] = await Promise.all([send(facts, request.method, path, headers), ...handshakes])
  const at = facts.listen.socketPath ?? `${facts.listen.address}:${facts.listen.port}`
  const { verdict } = outcome
  const cause = verdict === 'unreachable' ? causeOf(outcome, endpoints) : undefined
  return {
    sent: isHttpLike(facts.protocol) ? `${sent} to ${at}` : `a connection to ${at}`,
    outcome: outcome.text,
    verdict,
    ...(outcome.status === undefined ? {} : { status: outcome.status }),
    ...(cause === undefined ? {} : { code: cause.code }),
    ...compared(report, verdict, cause?.text),
    endpoints,
  }
}

/** What the endpoints show of a call that went nowhere. */
function causeOf({ text }: Outcome, endpoints: readonly EndpointProbe[]): { code: WhyCode; text: string } | undefined {
  for (const { at, code, text: said } of endpoints) if (code !== undefined) return { code, text: `${at} ${said}` }
  // Everybody who was asked is who it should be: what could not be reached is behind them.
  if (endpoints.length === 0 || !text.endsWith(appFailure)) return undefined
  return { code: 'app-unreachable', text: 'the sidecar answers, and the app behind it cannot be reached' }
}

/** An outcome that nobody foretold is no contradiction. */
function compared({ verdict: told, text }: WhyReport, live: Verdict, cause: string | undefined): Pick<ProbeReport, 'agrees' | 'differs'> {
  const because = cause === undefined ? '' : `; ${cause}`
  if (live === 'unknown' || told === 'depends') return { agrees: false, differs: '' }
  if (told === live) return { agrees: true, differs: '' }
  // The other cluster may allow or deny it; that it cannot be reached is news.
  if (told === 'unknown' && live !== 'unreachable') return { agrees: false, differs: '' }
  return { agrees: false, differs: `explained as ${told} (${text}), yet it is ${live}${because}` }
}

function send(facts: WhyProbe, method: string, path: string, headers: readonly string[]): Promise<Outcome> {
  if (!isHttpLike(facts.protocol)) return sendBytes(facts)
  return isHttp2(facts.protocol) ? sendHttp2(facts, method, path, headers) : sendHttp1(facts, method, path, headers)
}

function placeOf({ listen }: WhyProbe): { path: string } | { host: string; port: number } {
  return listen.socketPath === undefined ? { host: listen.address, port: listen.port } : { path: listen.socketPath }
}

function pairsOf(headers: readonly string[]): [string, string][] {
  return headers.map(line => [line.slice(0, line.indexOf(':')).trim(), line.slice(line.indexOf(':') + 1).trim()])
}

function sendHttp1(facts: WhyProbe, method: string, path: string, headers: readonly string[]): Promise<Outcome> {
  const place = placeOf(facts)
  const where = 'path' in place ? { socketPath: place.path } : place
  return new Promise(resolve => {
    const fail = (error: Error) => resolve(unanswered(error))
    let outgoing: ClientRequest
    try {
      outgoing = requestHttp({ ...where, method, path, agent: false, timeout: limits.requestMs })
      for (const [name, value] of pairsOf(headers)) outgoing.appendHeader(name, value)
    } catch (error) {
      return fail(error as Error)
    }
    outgoing.on('response', incoming => {
      let body = ''
      incoming.setEncoding('latin1')
      incoming.on('data', (chunk: string) => (body = (body + chunk).slice(0, limits.bodyBytes)))
      incoming.on('error', fail)
      const denial = incoming.headers['x-isthmus-deny']
      incoming.on('end', () => resolve(answered(incoming.statusCode ?? 0, body, typeof denial === 'string' ? denial : '')))
    })
    outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer within ${limits.requestMs / 1000} s`)))
    outgoing.on('error', fail)
    outgoing.end()
  })
}

function sendHttp2(facts: WhyProbe, method: string, path: string, headers: readonly string[]): Promise<Outcome> {
  const place = placeOf(facts)
  return new Promise(resolve => {
    const session = connectHttp2('http://localhost', { createConnection: () => connectTcp({ ...place, allowHalfOpen: false }) })
    const done = (outcome: Outcome) => {
      resolve(outcome)
      session.destroy()
    }
    session.setTimeout(limits.requestMs, () => done(unanswered(new Error(`no answer within ${limits.requestMs / 1000} s`))))
    session.on('error', error => done(unanswered(error)))
    const stream = session.request({ ...Object.fromEntries(pairsOf(headers)), ':method': method, ':path': path })
    let status = 0
    let denial = ''
    let body = ''
    stream.on('response', head => {
      status = Number(head[':status'])
      const told = head['x-isthmus-deny'] ?? head['grpc-message']
      denial = typeof told === 'string' ? told : ''
    })
    stream.on('data', (chunk: Buffer) => (body = (body + chunk.toString('latin1')).slice(0, limits.bodyBytes)))
    stream.on('error', error => done(unanswered(error)))
    stream.on('end', () => done(answered(status, body, denial)))
    stream.end()
  })
}

/** What a proxy of ours answers by itself is told from what an app answers by its words (spec/data-plane.md 7.5). */
function answered(status: number, body: string, denial: string): Outcome {
  const said = denial === '' ? '' : `; ${denial}`
  const text = `answered with ${status}${said}`
  if (status === 403 && body === 'RBAC: access denied') return { verdict: 'deny', text, status }
  if (status === 400 && body === 'malformed request path') return { verdict: 'deny', text, status }
  if (status === 503 && /^(?:no healthy upstream$|upstream connect error)/.test(body))
    return { verdict: 'unreachable', text: `${text}: ${body}`, status }
  if (status === 404 && body === '') return { verdict: 'unreachable', text: `${text} without a word, as where no route matches`, status }
  return { verdict: 'allow', text, status }
}

function unanswered(error: Error): Outcome {
  return { verdict: 'unreachable', text: `no answer: ${error.message}` }
}

/** Nothing is sent: what an app would make of it is unknown. A connection that is closed at once went nowhere. */
function sendBytes(facts: WhyProbe): Promise<Outcome> {
  return new Promise(resolve => {
    const socket = connectTcp(placeOf(facts))
    const done = (outcome: Outcome) => {
      clearTimeout(timer)
      resolve(outcome)
      socket.destroy()
    }
    const stands: Outcome = {
      verdict: 'unknown',
      text: 'the connection stands; nothing was sent on it, and a denial shows with the first byte',
    }
    let timer = setTimeout(() => done(unanswered(new Error('the sidecar does not accept the connection'))), limits.handshakeMs)
    socket.on('connect', () => {
      clearTimeout(timer)
      timer = setTimeout(() => done(stands), limits.quietMs)
    })
    socket.on('data', () => done({ verdict: 'allow', text: 'the other side spoke' }))
    socket.on('error', error => done(unanswered(error)))
    socket.on('close', () => done(unanswered(new Error('the connection was closed'))))
  })
}

type ProbeTarget = WhyProbe['targets'][number]

function shake(target: ProbeTarget, { address, port }: { address: string; port: number }, protocol: string): Promise<EndpointProbe> {
  const at = `${address}:${port}`
  const told = (text: string, code?: WhyCode): EndpointProbe => ({
    at,
    target: target.target,
    text,
    ...(code === undefined ? {} : { code }),
  })
  return new Promise(resolve => {
    let connected = false
    const done = (outcome: EndpointProbe) => {
      clearTimeout(timer)
      resolve(outcome)
      socket.destroy()
    }
    const ALPNProtocols = isHttp2(protocol) ? ['h2'] : ['http/1.1']
    // Nothing is believed by this handshake: the certificate is judged below, as the sidecar judges it.
    const socket = connectTls({ host: address, port, servername: target.sni, ALPNProtocols, rejectUnauthorized: false })
    const failed = (what: string) =>
      done(connected ? told(...refusedAs(target, what)) : told(`cannot be reached: ${what}`, unreachableCode(target)))
    const timer = setTimeout(() => failed(`nothing within ${limits.handshakeMs / 1000} s`), limits.handshakeMs)
    socket.once('connect', () => (connected = true))
    socket.once('secureConnect', () => {
      const [text, code] = judged(target, presentedChain(socket))
      done(told(text, code))
    })
    socket.on('error', (error: NodeJS.ErrnoException) => failed(error.code ?? error.message))
    socket.on('close', () => failed('the connection was closed'))
  })
}

function unreachableCode({ peer }: ProbeTarget): WhyCode {
  return peer === '' ? 'endpoint-unreachable' : 'gateway-unreachable'
}

/** A gateway hangs up on a name that it does not serve, before any handshake. */
function refusedAs({ peer, sni }: ProbeTarget, what: string): [string, WhyCode] {
  if (peer === '') return [`does not finish a TLS handshake (${what})`, 'endpoint-unreachable']
  return [`hangs up on the server name ${sni} (${what}): it does not serve it, or nobody behind it answers`, 'wrong-sni']
}

function judged({ trustDomain, rootPems, spiffeIds }: ProbeTarget, chain: ReturnType<typeof presentedChain>): [string, WhyCode?] {
  const roots = readBundle(rootPems)
  const now = Date.now()
  const [leaf] = chain
  if (leaf === undefined) return ['shows no certificate', 'wrong-identity']
  const until = new Date(leaf.validTo)
  const uri = uriOf(leaf) ?? 'nobody'
  if (until.getTime() <= now) return [`is ${uri}, whose certificate ended at ${until.toISOString()}`, 'certificate-expired']
  const made = permitOf(chain, domain => (domain === trustDomain ? roots : undefined), now)
  if (!made.ok) return [`is ${uri}, which no root of ${trustDomain} vouches for (${made.reason})`, 'wrong-identity']
  if (!spiffeIds.includes(made.permit.uri)) return [`is ${uri}, which is not who must answer`, 'wrong-identity']
  return [`is ${uri}, until ${until.toISOString()}`]
}
