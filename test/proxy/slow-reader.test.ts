/**
 * A large body whose reader is slow, through a pair of sidecars in processes of their own: neither holds more than its windows, both
 * ways, and every byte arrives. 64 MiB, and 1 GiB under ISTHMUS_DEEP=1. Reads a process's memory where Linux shows it.
 */
import { createHash, type Hash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { createServer, request as requestHttp, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import t from 'tap'
import { names } from '../../src/mesh/snapshot.ts'
import { AgentStandIn } from '../support/agent-stand-in.ts'
import { Mint } from '../support/mint.ts'
import {
  apiId,
  apiSni,
  eastDomain,
  endpointAt,
  sidecarSelf,
  source,
  upstreamOf,
  westDomain,
  westResources,
} from '../support/proxy-scene.ts'
import { spawnSidecar } from '../support/sidecar-process.ts'

const mebibyte = 1024 * 1024
const bodyBytes = (process.env['ISTHMUS_DEEP'] === '1' ? 1024 : 64) * mebibyte
/** A process may grow by so much above what it had when idle. */
const allowedBytes = 64 * mebibyte
const skip = !existsSync('/proc/self/status') && 'this system does not show the memory of a process in /proc'
if (skip) process.stderr.write(`# SKIPPED: ${skip}\n`)
t.setTimeout(600_000)

/** A body that is different at every place, made as it is read, with what was handed out so far. */
function startBody(): { stream: Readable; hash: Hash; given: () => number } {
  const hash = createHash('sha256')
  let given = 0
  const stream = new Readable({
    highWaterMark: 64 * 1024,
    read() {
      if (given === bodyBytes) return void this.push(null)
      const block = Buffer.alloc(64 * 1024, given % 251)
      block.writeUInt32BE(given / block.length, 0)
      given += block.length
      hash.update(block)
      this.push(block)
    },
  })
  return { stream, hash, given: () => given }
}

/** Takes nothing for a second, then a mebibyte and a rest, again and again. */
function slowReader(whileStopped: () => void): { stream: Writable; hash: Hash } {
  const hash = createHash('sha256')
  let taken = 0
  let started = false
  const stream = new Writable({
    highWaterMark: 16 * 1024,
    write(chunk: Buffer, _encoding, done) {
      hash.update(chunk)
      const before = taken
      taken += chunk.length
      if (!started) {
        started = true
        return void setTimeout(() => {
          whileStopped()
          done()
        }, 1500)
      }
      if (Math.floor(taken / mebibyte) > Math.floor(before / mebibyte)) setTimeout(done, 30)
      else done()
    },
  })
  return { stream, hash }
}

t.test('a slow reader of a large body', { skip }, async t => {
  const mint = new Mint()
  t.teardown(() => mint.remove())
  const [eastRoot, westRoot] = await Promise.all([mint.root(eastDomain), mint.root(westDomain)])
  const [east, west] = [new AgentStandIn(mint, eastRoot), new AgentStandIn(mint, westRoot)]
  await Promise.all([east.start(), west.start()])
  t.teardown(() => Promise.all([east.stop(), west.stop()]))
  let onUpload: (request: IncomingMessage) => Promise<string>
  let body = startBody()
  const app = createServer((request, response) => {
    if (request.method === 'GET') return void pipeline(body.stream, response).catch(() => {})
    void onUpload(request).then(digest => response.end(digest))
  })
  await new Promise<void>(resolve => app.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    app.close()
    app.closeAllConnections()
  })
  const self = sidecarSelf('west', 'api', 'http', (app.address() as AddressInfo).port, { localRequestTimeoutMs: 0 })
  west.tell(self.proxyId, westResources(self, { eastRoot, westRoot }, [source('web', 'allow', 'partner-east')]))
  const api = await spawnSidecar(self.proxyId, west.url, ['public'])
  t.teardown(() => api.stop())
  east.tell('web-sidecar-proxy', [
    ['self', 'web-sidecar-proxy', sidecarSelf('east', 'web', 'tcp', 1)],
    ['roots', names.localRoots, { trustDomain: eastDomain, peer: '', exportedPartition: '', pems: [eastRoot.certPem] }],
    ['roots', 'west', { trustDomain: westDomain, peer: 'west', exportedPartition: '', pems: [westRoot.certPem] }],
    ['intentions', 'web', { sources: [] }],
    ['upstream', 'api?peer=west', upstreamOf('api', 'http', apiSni, apiId)],
    ['endpoints', 'api-endpoints', { endpoints: [endpointAt(api.ports['public']!)] }],
  ])
  const web = await spawnSidecar('web-sidecar-proxy', east.url, ['api?peer=west'])
  t.teardown(() => web.stop())
  const port = web.ports['api?peer=west']!
  /** The most that either grows by while something is done. */
  const growth = async (what: () => Promise<void>): Promise<[number, number]> => {
    const idle = [api.memory(), web.memory()] as const
    const most: [number, number] = [0, 0]
    const look = () => {
      most[0] = Math.max(most[0], api.memory() - idle[0])
      most[1] = Math.max(most[1], web.memory() - idle[1])
    }
    const timer = setInterval(look, 20)
    await what().finally(() => clearInterval(timer))
    return most
  }
  const ask = (method: string): [ReturnType<typeof requestHttp>, Promise<IncomingMessage>] => {
    const request = requestHttp({ port, host: '127.0.0.1', path: '/', method, agent: false })
    return [
      request,
      new Promise((resolve, reject) => {
        request.once('response', resolve)
        request.once('error', reject)
      }),
    ]
  }
  const report = ([ofApi, ofWeb]: [number, number]) =>
    `${(ofApi / mebibyte).toFixed(1)} and ${(ofWeb / mebibyte).toFixed(1)} MiB above idle for ${bodyBytes / mebibyte} MiB`

  /** Kernel buffers on loopback hold a few MiB on each of five sockets. */
  const mayBeUnderWay = 40 * mebibyte

  await t.test('of a response', async t => {
    body = startBody()
    const reader = slowReader(() => t.ok(body.given() < mayBeUnderWay, `the app was asked for ${body.given()} bytes`))
    const grown = await growth(async () => {
      const [request, response] = ask('GET')
      request.end()
      await pipeline(await response, reader.stream)
    })
    t.equal(reader.hash.digest('hex'), body.hash.digest('hex'))
    t.ok(Math.max(...grown) < allowedBytes, report(grown))
    t.comment(report(grown))
  })

  await t.test('of an upload', async t => {
    body = startBody()
    const reader = slowReader(() => t.ok(body.given() < mayBeUnderWay, `the client was asked for ${body.given()} bytes`))
    onUpload = async request => {
      await pipeline(request, reader.stream)
      return reader.hash.digest('hex')
    }
    let answer = ''
    const grown = await growth(async () => {
      const [request, response] = ask('POST')
      await pipeline(body.stream, request)
      for await (const chunk of await response) answer += String(chunk)
    })
    t.equal(answer, body.hash.digest('hex'))
    t.ok(Math.max(...grown) < allowedBytes, report(grown))
    t.comment(report(grown))
  })
})
