/**
 * Where node:http and we come to different things from the same hostile bytes: every kind by its name, and why it is right. A kind that is
 * not in the table fails the test that found it, and so does one that a deep run does not find any more.
 */
import { METHODS } from 'node:http'
import type { Test } from 'tap'
import type { AnswerReading, Reading, Readings } from './hostile.ts'

const both: Record<string, string> = {
  'only node:http reads it: carriage return without line feed': 'a CR alone before a request line or behind a status line; node skips it',
  'only node:http reads it: connection names a field that is not hop-by-hop': 'taking such a field away is an attack; node takes none away',
  'only node:http reads it: invalid connection field': 'it is no list of tokens, or there are two Upgrades; node looks for its words only',
  'only node:http reads it: invalid content-length': 'leading zeros, which others read as octal; node reads decimals',
  'only node:http reads it: tab beside a host or a framing value': 'nginx takes the tab for a part of the value; node takes it off',
  'only node:http reads it: transfer-encoding other than chunked':
    'an empty one, or an unknown one in an answer or a trailer; node reads by length or to the end, others do not',
  'only node:http reads it: underscore in a framing field':
    'applications of the CGI family read it as the framing field; to node it is another',
}

export const requestDisagreements: Record<string, string> = {
  ...both,
  'absolute-form': 'node hands the app what came; we make it origin-form, which is what was judged',
  'only node:http reads it: close': 'Connection: close beside keep-alive in HTTP/1.0; node goes on, we take the stricter word',
  'only node:http reads it: host differs from the request target':
    'whoever believes one of them routes elsewhere; node leaves it to the app',
  'only node:http reads it: http version not supported': 'HTTP/0.9 and HTTP/2.0 in the words of 1.1; node reads them as 1.1',
  'only node:http reads it: invalid chunk size': 'more digits than any size needs; node skips zeros',
  'only node:http reads it: invalid field name': 'longer than a name may be here; node has a limit of the whole head only',
  'only node:http reads it: invalid host': 'what is no host would be judged and routed as one; node leaves it to the app',
  'only node:http reads it: invalid method token': 'a LF alone before the request line; node skips it',
  'only node:http reads it: invalid request target':
    'fragments, backslashes, quotes, bytes above ASCII and paths without a slash; node leaves them to the app',
  'only node:http reads it: malformed request line':
    'two spaces before the version, or many empty lines before the request; node skips them',
  'only node:http reads it: missing host': 'HTTP/1.1 demands it and it is judged; node was told here not to demand it',
  'only node:http reads it: more than one host': 'two parsers take different ones; node takes the first',
  'only node:http reads it: transfer-encoding in http/1.0': 'a server of 1.0 would not see the chunks; node does',
  'only node:http reads it: unknown expectation': 'it is for us to refuse what cannot be passed on; node asks the app',
  'only we read it: chunk extensions and trailers':
    'node refuses what it cannot read there; we never pass on an extension, nor a field of framing in a trailer',
  'only we read it: HPE_CLOSED_CONNECTION': 'Connection: close in a trailer, where it decides on nothing; node reads nothing after it',
  'only we read it: method': 'node knows a list of methods; ours is a token of capitals, for the app to know',
  'only we read it: upgrade': 'node leaves the rest to the other protocol; we pass on only what may be, and the app may say no',
}

export const answerDisagreements: Record<string, string> = {
  ...both,
  'only node:http reads it: unknown expectation': 'no answer has expectations, but a bad one is refused as in a request',
  'only node:http reads it: malformed status line': 'a status that is none, or a space too many; node reads on',
  'only node:http reads it: more than one transfer-encoding': 'two parsers take different ones; node joins them and reads to the end',
  'only node:http reads it: unasked-for upgrade':
    "nobody asked for another protocol, so what follows is nobody's; node leaves it to its caller",
  'only we read it: chunk extensions and trailers': 'as in requests',
  'only we read it: HPE_CLOSED_CONNECTION':
    'an interim answer with Connection: close, which is then not the last; node reads nothing after it',
}

/** The kind of what the two make of the requests of one connection; `same: …` where they come to the same. */
export function compareRequests(ours: Readings, node: Readings & { upgraded: boolean }): string {
  let form = false
  for (let i = 0; ; i++) {
    const [mine, other] = [ours.whole[i], node.whole[i]]
    if (mine === undefined || other === undefined) {
      if (mine === undefined && other === undefined) {
        if (form) return 'absolute-form'
        if (ours.stopped !== undefined && node.stopped !== undefined) return 'same: both refuse'
        if (ours.stopped === undefined && node.stopped === undefined) return 'same: all is read'
        // Nothing that only one of them refused was read as a request by the other.
        return ours.stopped === undefined ? 'same: the rest is refused by node:http' : 'same: the rest is refused by us'
      }
      // An upgrade it reads without the body, which is left to the other protocol.
      if (node.upgraded && i === node.whole.length - 1) return 'same: an upgrade without its body'
      if (mine === undefined) return `only node:http reads it: ${ours.stopped ?? 'we wait'}`
      return `only we read it: ${node.upgraded ? 'upgrade' : whyNot(mine, node.stopped)}`
    }
    if (equal(mine, other)) continue
    if (node.upgraded && i === node.whole.length - 1) return 'only we read it: upgrade'
    if (!equal(mine, { ...other, url: originForm(other) })) return `read differently: ${JSON.stringify([mine, other])}`
    form = true
  }
}

/** The codes of node:http change with its versions, so it is told by what was read. */
function whyNot({ method, chunked }: Reading, stopped: string | undefined): string {
  if (!METHODS.includes(method)) return 'method'
  return chunked === true ? 'chunk extensions and trailers' : (stopped ?? 'node waits')
}

function equal(a: Reading, b: Reading): boolean {
  return a.method === b.method && a.url === b.url && a.body === b.body
}

function originForm({ method, url }: Reading): string {
  const rest = url.replace(/^https?:\/\/[^/?]*/i, '')
  if (rest === '') return method === 'OPTIONS' ? '*' : '/'
  return rest.startsWith('/') ? rest : `/${rest}`
}

/** The kind of what a client of node:http is told by the app itself and by us, who `refused` the answer or a part of it for that reason. */
export function compareAnswers(ours: AnswerReading, direct: AnswerReading, refused: string | undefined): string {
  const whole = direct.status !== undefined && direct.complete
  if (refused !== undefined) return whole ? `only node:http reads it: ${refused}` : 'same: both refuse'
  if (!whole) return `only we read it: ${ours.chunked ? 'chunk extensions and trailers' : (direct.error ?? 'it breaks off')}`
  if (ours.status === direct.status && ours.body === direct.body && ours.complete) return 'same: all is read'
  return `read differently: ${JSON.stringify([ours, direct])}`
}

export class Tally {
  readonly #counts = new Map<string, number>()
  readonly #known: Record<string, string>

  constructor(known: Record<string, string>) {
    this.#known = known
  }

  count(kind: string): void {
    if (!kind.startsWith('same: ') && !(kind in this.#known)) throw new Error(`a disagreement that nobody has explained: ${kind}`)
    this.#counts.set(kind, (this.#counts.get(kind) ?? 0) + 1)
  }

  of(kind: string): number {
    return this.#counts.get(kind) ?? 0
  }

  /** `whole`: so many were tried that each kind must have come. Later versions of Node than 20 are stricter, and some kinds are gone there. */
  report(t: Test, whole: boolean): void {
    for (const [kind, count] of [...this.#counts].sort(([, a], [, b]) => b - a))
      t.comment(`${count} ${kind}${kind in this.#known ? ` (${this.#known[kind]})` : ''}`)
    if (!whole || !process.version.startsWith('v20.')) return
    for (const kind of Object.keys(this.#known)) t.ok(this.of(kind) > 0, `found: ${kind}`)
  }
}
