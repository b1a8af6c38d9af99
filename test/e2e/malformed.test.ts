// Malformed input to every door of real processes: HTTP, DNS, gRPC, sidecar (outside and inside TLS) and gateway. Each gets an error or
// a closed connection; nothing crashes, and memory and sockets stay flat. 50,000 inputs a door with ISTHMUS_DEEP=1.
import { createSocket } from 'node:dgram'
import { readFileSync, readdirSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import t from 'tap'
import { call, until, type Running } from '../support/processes.ts'
import { seeded } from '../support/seeded.ts'
import { startTwoClusters } from '../support/two-clusters.ts'

const inputs = process.env['ISTHMUS_DEEP'] === '1' ? 50_000 : 1000
const parallel = 64
// With a small heap what is garbage must be collected, so that growth is a leak and nothing else.
process.env['NODE_OPTIONS'] = '--max-old-space-size=96'

/** Noise, or a valid message with bytes changed, cut or doubled. */
function malform(valid: Buffer[], random: () => number): Buffer {
  const noise = Buffer.from(Array.from({ length: Math.floor(random() * 300) }, () => Math.floor(random() * 256)))
  const kind = random()
  if (kind < 0.25) return noise
  const base = Buffer.from(valid[Math.floor(random() * valid.length)]!)
  if (kind < 0.5) return base.subarray(0, Math.floor(random() * base.length))
  if (kind < 0.85) {
    for (let i = 0; i < 1 + random() * 6; i += 1) base[Math.floor(random() * base.length)] = Math.floor(random() * 256)
    return base
  }
  const at = Math.floor(random() * base.length)
  return Buffer.concat([base.subarray(0, at), noise, base.subarray(at)])
}

/** Sends one input and waits until the other side has ended the connection, or lets go after a while. */
function poke(open: () => Socket, input: Buffer): Promise<void> {
  return new Promise(resolve => {
    const socket = open()
    const patience = setTimeout(() => socket.destroy(), 100)
    socket.on('error', () => undefined)
    socket.on('data', () => undefined)
    socket.on('close', () => {
      clearTimeout(patience)
      resolve()
    })
    socket.end(input)
  })
}

async function pokeAll(open: () => Socket, valid: Buffer[], seed: number): Promise<void> {
  const random = seeded(seed)
  let left = inputs
  await Promise.all(
    Array.from({ length: parallel }, async () => {
      while (left > 0) {
        left -= 1
        await poke(open, malform(valid, random))
      }
    }),
  )
}

interface Footprint {
  rssKib: number
  sockets: number
}

/** Resident memory and open files of a process; undefined where the system has no /proc. */
function footprint(running: Running): Footprint | undefined {
  try {
    const status = readFileSync(`/proc/${running.child.pid}/status`, 'utf8')
    return { rssKib: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]), sockets: readdirSync(`/proc/${running.child.pid}/fd`).length }
  } catch {
    return undefined
  }
}

const http = [
  Buffer.from('GET /v1/catalog/nodes HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n'),
  Buffer.from('PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello'),
  Buffer.from('PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"Nam\r\n0\r\n\r\n'),
]
const h2 = [
  Buffer.concat([
    Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    Buffer.from('000000040000000000', 'hex'),
    Buffer.from('00000401040000000182868441', 'hex'),
  ]),
]
const clientHello = Buffer.from(
  '16030100c4010000c00303000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f00000ac02bc02fc02cc030009c0100008d00000019001700001461706900000000000000000000000000000000000a00080006001d00170018000d0014001204030804040105030805050108060601020100230000',
  'hex',
)

t.test('every door survives malformed input', { timeout: process.env['ISTHMUS_DEEP'] === '1' ? 1_800_000 : 180_000 }, async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { west, east } = scene
  const plain = (port: number) => () => connect({ port, host: '127.0.0.1' })
  const sidecarPort = ((await west.api('GET', '/v1/agent/service/api-sidecar-proxy')).json as { Port: number }).Port
  const leaf = (await west.api('GET', '/v1/agent/connect/ca/leaf/web')).json as { CertPEM: string; PrivateKeyPEM: string }
  const mtls = () =>
    connectTls({ port: sidecarPort, host: '127.0.0.1', cert: leaf.CertPEM, key: leaf.PrivateKeyPEM, rejectUnauthorized: false })

  const doors: [string, () => Socket, Buffer[], Running][] = [
    ['HTTP', plain(west.ports.http), http, west.agent],
    [
      'DNS over TCP',
      plain(west.ports.dns),
      [Buffer.from('001d00010100000100000000000003617069067365727669636506636f6e73756c0000010001', 'hex')],
      west.agent,
    ],
    ['gRPC, outside TLS', plain(west.ports.grpcTls), [clientHello], west.agent],
    [
      'gRPC, inside TLS',
      () => connectTls({ port: west.ports.grpcTls, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['h2'] }),
      h2,
      west.agent,
    ],
    ['sidecar, outside TLS', plain(sidecarPort), [clientHello], west.proxies.get('api')!],
    ['sidecar, inside TLS', mtls, http, west.proxies.get('api')!],
    ['upstream port of a sidecar', plain(scene.apiPort), http, east.proxies.get('web')!],
    ['gateway', plain(scene.westGatewayPort), [clientHello], west.proxies.get('gateway')!],
  ]
  for (const [i, [name, open, valid, running]] of doors.entries()) {
    await t.test(name, async t => {
      // What a first wave allocates for good (code, buffers, caches) is not a leak: measure after it.
      await Promise.all(Array.from({ length: 200 }, (_, n) => poke(open, malform(valid, seeded(n)))))
      const before = footprint(running)
      await pokeAll(open, valid, 1000 + i)
      t.equal(running.child.exitCode, null, 'still runs')
      if (before) {
        const after = await until(
          'sockets are let go',
          async () => {
            const now = footprint(running)
            return now && now.sockets <= before.sockets + 8 && now
          },
          20_000,
          200,
        )
        t.ok(after.rssKib < before.rssKib + 64 * 1024, `memory is flat: ${before.rssKib} KiB before, ${after.rssKib} KiB after`)
      }
    })
  }

  await t.test('DNS over UDP', async t => {
    const socket = createSocket('udp4')
    t.teardown(() => socket.close())
    const random = seeded(77)
    const query = Buffer.from('00010100000100000000000003617069067365727669636506636f6e73756c0000010001', 'hex')
    for (let n = 0; n < inputs; n += 1) {
      await new Promise(resolve => socket.send(malform([query], random), west.ports.dns, '127.0.0.1', resolve))
      if (n % 64 === 0) await new Promise(resolve => setImmediate(resolve))
    }
    const good = Buffer.from(query)
    good.writeUInt16BE(0xbeef, 0)
    let answered = false
    socket.on('message', message => {
      answered ||= message.length > 2 && message.readUInt16BE(0) === 0xbeef
    })
    await until(
      'an answer to a good query',
      async () => {
        socket.send(good, west.ports.dns, '127.0.0.1')
        return answered
      },
      5000,
      100,
    )
    t.ok(answered, 'a good query is still answered')
  })

  await t.test('all of it still works', async t => {
    t.equal((await call(west.ports.http, '/v1/catalog/nodes')).status, 200)
    t.equal((await call(scene.apiPort, '/')).status, 200)
  })
})
