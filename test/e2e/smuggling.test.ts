// Request smuggling and response splitting by name, through a real pair of sidecars in front of node:http, nginx and HAProxy. Behind
// the pair there is exactly what was judged, once and whole, or nothing; and after every attack another caller, who shares the
// streams of the attacker, gets his own answer.
import assert from 'node:assert/strict'
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { answerAttacks, type AnswerAttack } from '../proxy/http1/smuggling-answers.ts'
import { attacks } from '../proxy/http1/smuggling-requests.ts'
import type { Attack, Reached } from '../proxy/http1/smuggling-words.ts'
import { nodeReads } from '../proxy/http1/node-reader.ts'
import { startBackends, type Backend, type Backends } from '../support/backends.ts'
import type { Minted } from '../support/mint.ts'

/** For what must not come. */
const quietMs = 15
const patienceMs = 5000

/** A raw connection and what it heard. */
class Caller {
  heard = ''
  ended = false
  readonly #socket: Socket
  #wake: (() => void) | undefined

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (chunk: Buffer) => {
      this.heard += chunk.toString('latin1')
      this.#wake?.()
    })
    for (const event of ['end', 'close'])
      socket.on(event, () => {
        this.ended = true
        this.#wake?.()
      })
    socket.on('error', () => {})
  }

  static plain(port: number): Caller {
    return new Caller(connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true }))
  }

  /** As a peer that has a good leaf and no sidecar of ours. */
  static peer(port: number, { certPem, keyPem }: Minted): Caller {
    return new Caller(connectTls({ port, host: '127.0.0.1', cert: certPem, key: keyPem, rejectUnauthorized: false }))
  }

  say(text: string): void {
    this.#socket.write(text, 'latin1')
  }

  /** Waits until it is so; answers whether it was. */
  async until(condition: () => boolean, waitMs = patienceMs): Promise<boolean> {
    const end = Date.now() + waitMs
    while (!condition()) {
      const left = end - Date.now()
      if (left <= 0) return false
      await new Promise<void>(resolve => {
        const timer = setTimeout(resolve, left)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    return true
  }

  /** Statuses of the answers, those of interim ones too. */
  get statuses(): number[] {
    return [...this.heard.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status))
  }

  get finals(): number[] {
    return this.statuses.filter(status => status >= 200)
  }

  leave(): void {
    this.#socket.destroy()
  }
}

let canaries = 0

/** Another caller asks for something and hears the answer to that, and nothing else. */
async function canary(caller: Caller): Promise<void> {
  const url = `/canary/${++canaries}`
  caller.heard = ''
  caller.say(`GET ${url} HTTP/1.1\r\nHost: api\r\n\r\n`)
  const body = `\r\n\r\nGET ${url}`
  if (!(await caller.until(() => caller.heard.includes(body) || caller.heard.includes('\r\n0\r\n\r\n'))))
    throw new Error(`the canary heard ${JSON.stringify(caller.heard)}`)
  assert.match(caller.heard, new RegExp(`^HTTP/1\\.1 200 OK\\r\\n(?:[\\w-]+: [^\\r]*\\r\\n)*\\r\\nGET ${url}$`))
}

/** What a server read on its connections, the canary's request left out: whole requests, and how many were only begun. */
async function readOn(came: string[]): Promise<{ whole: Reached[]; begun: number; fields: string[] }> {
  const whole: Reached[] = []
  const fields: string[] = []
  let begun = 0
  for (const bytes of came) {
    const { requests, error } = await nodeReads(Buffer.from(bytes, 'latin1'))
    if (error !== undefined) throw new Error(`node:http refuses what reached the server with ${error}: ${JSON.stringify(bytes)}`)
    for (const { method, url, body, complete, headers } of requests) {
      if (url.startsWith('/canary/')) continue
      if (complete) whole.push({ method, url, body })
      else begun++
      for (let i = 0; i < headers.length; i += 2) fields.push(headers[i]!.toLowerCase())
    }
  }
  return { whole, begun, fields }
}

interface Door {
  open(): Caller
  /** Sends an attack. */
  send(caller: Caller, text: string): void
}

/** One attack on one backend, and what is wrong with what came of it. */
async function attack(backends: Backends, backend: Backend, door: Door, other: Caller, attack: Attack): Promise<void> {
  const { reaches = [], refused, part, gone = [] } = attack
  const differs = attack.differs?.[backend.name]
  const answers = differs ?? attack.answers ?? [...reaches.map(() => 200), ...(refused === undefined ? [] : [refused[0]])]
  backend.tap.forget()
  backends.takeSeen()
  const caller = door.open()
  door.send(caller, attack.send)
  const enough = await caller.until(() => caller.finals.length >= answers.length && (refused === undefined || caller.ended))
  if (answers.length === 0) await caller.until(() => caller.heard !== '' || caller.ended, quietMs)
  await canary(other)
  assert.ok(enough, `heard only ${JSON.stringify(caller.heard)}`)
  assert.deepEqual(caller.finals, answers)
  if (refused !== undefined) assert.ok(caller.heard.endsWith(`\r\nconnection: close\r\n\r\n${refused[1]}`), caller.heard)
  caller.leave()
  if (part || answers.length === 0) await canary(other)

  const { whole, begun, fields } = await readOn(backend.tap.came)
  assert.deepEqual(whole, reaches, 'what reached the server')
  assert.ok(begun <= (part ? 1 : 0), `${begun} requests were begun`)
  for (const name of gone) assert.ok(!fields.includes(name), `${name} reached the server`)
  const seen = backends.takeSeen().filter(({ url }) => !url.startsWith('/canary/'))
  const app = seen.map(({ method, url, body }): Reached => ({ method, url, body }))
  assert.deepEqual(app, differs === undefined ? reaches : [], 'what the app read')
  for (const { fields } of seen)
    for (const name of gone) assert.ok(!fields.includes(name) || name === 'connection', `${name} reached the app`)
}

async function under(t: Test, backends: Backends, backend: Backend, door: Door): Promise<void> {
  const other = Caller.plain(backend.port)
  t.teardown(() => other.leave())
  await canary(other)
  for (const each of attacks) {
    try {
      await attack(backends, backend, door, other, each)
      t.pass(each.name)
    } catch (error) {
      t.fail(`${each.name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
}

/** When all pieces of an attack were written. */
const told: Promise<void>[] = []

/** Answers `/attack/…` with the pieces of that attack, and everything else with what was asked. */
function liar(socket: Socket): void {
  let head = ''
  socket.on('data', (chunk: Buffer) => {
    head += chunk.toString('latin1')
    const end = head.indexOf('\r\n\r\n')
    if (end < 0) return
    const url = head.split(' ')[1]!
    head = ''
    const nth = /^\/attack\/(\d+)$/.exec(url)?.[1]
    if (nth === undefined) socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${4 + url.length}\r\n\r\nGET ${url}`)
    else told[Number(nth)] = lie(socket, answerAttacks[Number(nth)]!)
  })
}

async function lie(socket: Socket, { pieces }: AnswerAttack): Promise<void> {
  for (const piece of pieces) {
    if (typeof piece === 'string') socket.write(piece, 'latin1')
    else if (typeof piece === 'number') await new Promise(resolve => setTimeout(resolve, piece))
    else socket.end()
  }
}

async function lied(backend: Backend, nth: number, other: Caller): Promise<void> {
  const {
    ask = (url: string) => `GET ${url} HTTP/1.1\r\nHost: api\r\n\r\n`,
    pieces,
    answers,
    ends,
    holds,
    lacks,
    clean,
  } = answerAttacks[nth]!
  backend.tap.forget()
  const caller = Caller.plain(backend.port)
  caller.say(ask(`/attack/${nth}`))
  const enough = await caller.until(() => caller.statuses.length >= answers.length && (ends === undefined || caller.ended))
  // What comes late must find the stream idle: nobody could tell whose answer it is on one that is in use again.
  if (pieces.some(piece => typeof piece === 'number')) {
    await told[nth]
    await new Promise(resolve => setTimeout(resolve, quietMs))
  }
  await canary(other)
  await canary(other)
  assert.ok(enough, `heard only ${JSON.stringify(caller.heard)}`)
  assert.deepEqual(caller.statuses, answers)
  if (holds !== undefined) assert.ok(caller.heard.includes(holds), caller.heard)
  if (lacks !== undefined) assert.ok(!caller.heard.includes(lacks), caller.heard)
  assert.equal(caller.ended, ends === true, 'the connection of the caller ended')
  if (!ends) await canary(caller)
  caller.leave()
  const stream = backend.tap.came.find(bytes => bytes.includes(` /attack/${nth} `))
  assert.equal(stream?.includes(' /canary/'), clean === true, 'another request went on the stream of the attack')
}

t.test('smuggling', { timeout: 300_000 }, async t => {
  const backends = await startBackends({ liar })
  t.teardown(() => backends.close())
  for (const name of backends.missing) t.comment(`${name} is not installed: nothing is known of how it reads what we forward`)
  for (const name of backends.missing)
    await t.test(`requests through a pair of sidecars in front of ${name}`, { skip: `${name} is not installed` }, () => {})

  for (const backend of backends.all.filter(({ name }) => name !== 'liar')) {
    await t.test(`requests through a pair of sidecars in front of ${backend.name}`, async t => {
      await under(t, backends, backend, { open: () => Caller.plain(backend.port), send: (caller, text) => caller.say(text) })
      t.ok(backend.tap.connections < attacks.length, `attacks and canaries shared ${backend.tap.connections} connections`)
    })
  }

  await t.test('requests of a peer that dials the sidecar of the app itself, with heads in two pieces', async t => {
    const [node] = backends.all as [Backend]
    const send = (caller: Caller, text: string): void => {
      const half = Math.floor(Math.max(text.indexOf('\r\n\r\n'), 2) / 2)
      caller.say(text.slice(0, half))
      setTimeout(() => caller.say(text.slice(half)), 2)
    }
    await under(t, backends, node, { open: () => Caller.peer(node.inboundPort, backends.leaf), send })
  })

  await t.test('answers of an app through a pair of sidecars', async t => {
    const backend = backends.all.find(({ name }) => name === 'liar')!
    const other = Caller.plain(backend.port)
    t.teardown(() => other.leave())
    for (const [nth, { name }] of answerAttacks.entries()) {
      try {
        await lied(backend, nth, other)
        t.pass(name)
      } catch (error) {
        t.fail(`${name}: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
  })
})
