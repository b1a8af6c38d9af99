/**
 * Blocking queries that nobody wakes: what they cost, and how soon the one whose service changes is answered. A few always, ten thousand
 * under ISTHMUS_DEEP=1 against an agent that is a process of its own.
 */
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { call, ClusterProcess } from '../../support/processes.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const parked = deep ? 10_000 : 300
const wakes = deep ? 200 : 20
const memoryMiB = 300
const wakeMs = deep ? 5 : 50
t.setTimeout(180_000)

const linux = process.platform === 'linux'

function residentMiB(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024
}

/** Asks over a connection of its own, and waits only for the request to be on its way. */
function park(port: number, service: number, index: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('error', reject)
    const request = `GET /v1/health/service/s${service}?index=${index}&wait=600s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`
    socket.once('connect', () => socket.write(request, () => resolve(socket)))
  })
}

t.test(`${parked} parked blocking queries are cheap, and a change wakes its own at once`, { skip: !linux && 'reads /proc' }, async t => {
  const cluster = await ClusterProcess.start('dc1', { limits: { http_max_conns_per_client: parked + 100 } })
  t.teardown(() => cluster.stop())
  const { http } = cluster.ports
  const pid = cluster.agent.child.pid!
  const pass = (service: number, output: string) =>
    call(http, '/v1/catalog/register', {
      method: 'PUT',
      body: {
        Node: 'n',
        Address: '10.0.0.1',
        SkipNodeUpdate: service > 0,
        Service: { ID: `s${service}`, Service: `s${service}`, Port: 1 },
        Check: { CheckID: `c${service}`, ServiceID: `s${service}`, Status: 'passing', Output: output },
      },
    })
  const writes: number[] = []
  for (let i = 0; i < wakes; i += 1) {
    const started = performance.now()
    await pass(i, '')
    writes.push(performance.now() - started)
  }
  const alone = middle(writes)
  const { headers } = await call(http, '/v1/health/service/s0')
  const index = Number(headers['x-consul-index']) + 1_000_000
  const sockets: Socket[] = []
  t.teardown(() => sockets.forEach(socket => socket.destroy()))
  // Those that will be woken first, each waiting for its own service; the rest for services that never change.
  for (let i = 0; i < parked; i += 1) {
    const own = i < wakes
    const known = own ? Number((await call(http, `/v1/health/service/s${i}`)).headers['x-consul-index']) : index
    sockets.push(await park(http, own ? i : 1_000_000 + i, known))
  }
  await new Promise(resolve => setTimeout(resolve, 500))
  const memory = residentMiB(pid)
  t.ok(memory < memoryMiB, `${memory.toFixed(0)} MiB with ${parked} parked`)
  const afterWrite: number[] = []
  const wholes: number[] = []
  for (let i = 0; i < wakes; i += 1) {
    const started = performance.now()
    const woken = new Promise<number>(resolve => sockets[i]!.once('data', () => resolve(performance.now())))
    const written = pass(i, `changed ${i}`).then(() => performance.now())
    const [at, done] = await Promise.all([woken, written])
    // A change is there once it is on the disk; then both are answered, the waiter perhaps first.
    afterWrite.push(at - done)
    wholes.push(at - started)
  }
  const p50 = middle(afterWrite)
  t.ok(p50 <= wakeMs, `the waiter has its answer ${p50.toFixed(2)} ms after the writer, p50`)
  t.comment(
    `${memory.toFixed(0)} MiB with ${parked} parked; p50 from sending the write to the waiter's answer ${middle(wholes).toFixed(2)} ms, to the writer's with nobody parked ${alone.toFixed(2)} ms`,
  )
})

function middle(times: number[]): number {
  return times.toSorted((a, b) => a - b)[Math.floor(times.length / 2)]!
}
