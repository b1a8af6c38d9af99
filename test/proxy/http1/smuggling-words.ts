/** The words in which the attacks of smuggling-framing.ts and smuggling-requests.ts are told: what is sent, and what must come of it. */

/** A request as the app gets it. */
export interface Reached {
  method: string
  url: string
  body: string
}

export interface Attack {
  name: string
  send: string
  /** Said by us, and the connection ends with it. */
  refused?: readonly [status: number, reason: string]
  reaches?: readonly Reached[]
  /** The beginning of one more may reach the app, but never its end. */
  part?: true
  /** Final answers in order, where they are not a 200 for each request that reaches the app and then the refusal. */
  answers?: readonly number[]
  /** Names of fields that must not arrive. */
  gone?: readonly string[]
  /** By server: another answer than `answers`, and then nothing got behind that server. */
  differs?: Readonly<Record<string, readonly number[]>>
}

export const host = 'Host: api\r\n'
export const smuggled = `GET /smuggled HTTP/1.1\r\n${host}\r\n`
export const get = (fields = '', url = '/attack', version = '1.1') => `GET ${url} HTTP/${version}\r\n${host}${fields}\r\n`
export const post = (fields: string, body: string, version = '1.1') => `POST /attack HTTP/${version}\r\n${host}${fields}\r\n${body}`
export const chunks = (...parts: string[]) => [...parts, ''].map(part => `${part.length.toString(16)}\r\n${part}\r\n`).join('')
export const te = 'Transfer-Encoding: chunked\r\n'
export const length = (body: string) => `Content-Length: ${body.length}\r\n`

export const posted = (body: string): Reached => ({ method: 'POST', url: '/attack', body })
export const got = (url = '/attack', body = ''): Reached => ({ method: 'GET', url, body })

export type Row = [name: string, send: string, more: Omit<Attack, 'name' | 'send'>]
export const refused = (status: number, reason: string): Row[2] => ({ refused: [status, reason] })
export const reaches = (...requests: Reached[]): Row[2] => ({ reaches: requests })

export const both = refused(400, 'both transfer-encoding and content-length')
export const notChunked = refused(501, 'transfer-encoding other than chunked')
export const badLength = refused(400, 'invalid content-length')
export const tab = refused(400, 'tab beside a host or a framing value')
export const name = refused(400, 'invalid field name')
export const value = refused(400, 'invalid byte in field value')
export const colon = refused(400, 'space before colon')
export const fold = refused(400, 'line folding or leading space')
export const bareLf = refused(400, 'line feed without carriage return')
export const bareCr = refused(400, 'carriage return without line feed')
export const target = refused(400, 'invalid request target')
export const method = refused(400, 'invalid method token')
export const line = refused(400, 'malformed request line')
export const version = refused(505, 'http version not supported')
export const badHost = refused(400, 'invalid host')
export const mismatch = refused(400, 'host differs from the request target')
export const listed = refused(400, 'connection names a field that is not hop-by-hop')
export const chunkSize = refused(400, 'invalid chunk size')
/** Its rest never comes. */
export const waits: Row[2] = { part: true, answers: [] }
