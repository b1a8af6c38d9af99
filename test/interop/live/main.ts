/**
 * isthmus and a real Consul with its Envoys, live on loopback, and a table of what was seen: one token from each side, exports of every
 * kind, calls, intentions, health, un-exports, CA rotations, gateways replaced and killed, agents restarted and killed, peerings deleted
 * and made again, each way. Needs CONSUL_BIN and ENVOY_BIN; without them nothing is tested, and that is said.
 * Arguments are parts of names of rows, for a run of those alone; ISTHMUS_LOGS names a directory that the logs of every process are kept in.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { tree } from '../../../bench/machine/process.ts'
import { until } from '../../support/processes.ts'
import { consulBin, consulCli } from '../consul-process.ts'
import * as calls from './calls.ts'
import { envoyBin } from './envoy-process.ts'
import { bothActive, patienceMs, Side, type ServiceName, type Way } from './side.ts'
import { say, Table, type Row } from './table.ts'
import { replaceGateway, upheaval } from './upheaval.ts'

const all: ServiceName[] = ['api', 'wide', 'greeter', 'db']
const table = new Table(process.argv.slice(2))

/** Does the same for each way and notes what was seen; one that throws is a failed row, and the next goes on. */
async function row(ways: Way[], what: string, look: (way: Way) => Promise<string>): Promise<void> {
  if (!table.isWanted(what)) return
  // Of one way only: in its own column.
  const made: Row = { what, seen: ways.length === 1 && ways[0]!.caller.name === 'Consul' ? ['-'] : [], failed: false }
  for (const way of ways) {
    try {
      made.seen.push(await look(way))
    } catch (error) {
      made.failed = true
      made.seen.push((error as Error).message.slice(0, 200))
    }
  }
  table.add(made)
}

/** Waits until the outcome is the wanted one, and answers it. */
async function comes(what: string, wanted: string, look: () => Promise<string>): Promise<string> {
  let last = ''
  await until(what, async () => (last = await look()) === wanted, patienceMs, 100).catch(() => {
    throw new Error(`${what}: ${last} instead of ${wanted}`)
  })
  return wanted
}

async function tokenFrom(acceptor: Side, dialer: Side): Promise<string> {
  const made = await consulCli(acceptor.cluster.ports.http, 'peering', 'generate-token', '-name', acceptor.peer)
  if (made.code !== 0) throw new Error(made.stderr)
  const establish = ['peering', 'establish', '-name', dialer.peer, '-peering-token', made.stdout.trim()]
  const joined = await consulCli(dialer.cluster.ports.http, ...establish)
  if (joined.code !== 0) throw new Error(joined.stderr)
  await bothActive(acceptor, dialer)
  return 'ACTIVE on both sides'
}

/** One call of every kind. */
async function callAll({ caller: { upstreams }, callee }: Way): Promise<string> {
  const { seen, outcome } = await calls.http(upstreams.api, { method: 'POST', path: '/hello?x=1', body: 'text' })
  if (outcome !== '200' || seen?.app !== callee.name || seen.body !== 'text' || seen.url !== '/hello?x=1')
    throw new Error(`http: ${outcome}`)
  const who = /;URI=(spiffe:\/\/[^,]*\/svc\/web)/.exec(String(seen.headers['x-forwarded-client-cert'] ?? ''))?.[1]
  if (who === undefined) throw new Error(`the app does not see who calls: ${String(seen.headers['x-forwarded-client-cert']).slice(0, 80)}`)
  const outcomes: string[] = [
    `http ${outcome}`,
    `websocket ${await calls.websocket(upstreams.api)}`,
    `http2 ${await calls.http2(upstreams.wide, { path: '/x', method: 'POST', body: 'text' })}`,
    `grpc ${await calls.http2(upstreams.greeter, { path: '/test.Greeter/Hello', body: 'x' }, true)}`,
    `tcp ${await calls.tcp(upstreams.db)}`,
  ]
  const text = outcomes.join(', ')
  if (text !== 'http 200, websocket 101, http2 200, grpc grpc-status 0, tcp echo') throw new Error(text)
  return text
}

const callsWork = (way: Way) => until(`calls from ${way.caller.name}`, () => callAll(way), patienceMs, 250)

async function exportsArrive({ caller, callee }: Way): Promise<string> {
  await callee.export(...all, 'plain')
  for (const name of [...all, 'plain'])
    await comes(`${name} as a service`, 'passing', async () => (await caller.imported('service', name)).join())
  for (const name of all) await comes(`${name} over the mesh`, 'passing', async () => (await caller.imported('connect', name)).join())
  const none = (await caller.imported('connect', 'plain')).join()
  if (none !== '') throw new Error(`plain is no mesh service: ${none}`)
  return 'http, http2, grpc, tcp and non-mesh, all passing'
}

async function allowAll({ callee }: Way): Promise<string> {
  for (const name of all) await callee.intentions(name, { Action: 'allow' })
  return 'written'
}

/** A sidecar of Consul 1.16 drops the caller of a grpc request before it judges it (data-plane.md 7.5): no rule for peers has an effect. */
const judgesGrpc = (callee: Side) => callee.name === 'isthmus'

/** Every protocol is denied, and allowed again. */
async function denyAndAllow(way: Way): Promise<string> {
  const { caller, callee } = way
  const { api, wide, greeter, db } = caller.upstreams
  for (const name of all) await callee.intentions(name, { Action: 'deny' })
  await comes('http', '403', async () => (await calls.http(api)).outcome)
  await comes('http2', '403', () => calls.http2(wide, {}))
  if (judgesGrpc(callee)) await comes('grpc', 'grpc-status 7', () => calls.http2(greeter, { path: '/test.Greeter/Hello' }, true))
  await comes('tcp', 'closed', async () => (await calls.tcp(db)).replace('ECONNRESET', 'closed'))
  await allowAll(way)
  await callsWork(way)
  return `denied: 403, 403, ${judgesGrpc(callee) ? 'grpc-status 7' : 'grpc not judged'}, closed; then allowed`
}

async function l7({ caller, callee }: Way): Promise<string> {
  const Permissions = [
    { Action: 'allow', HTTP: { PathPrefix: '/public', Methods: ['GET'] } },
    { Action: 'allow', HTTP: { PathExact: '/test.Greeter/Hello' } },
    { Action: 'allow', HTTP: { PathPrefix: '/', Header: [{ Name: 'x-key', Exact: 'open' }] } },
    { Action: 'deny', HTTP: { PathPrefix: '/' } },
  ]
  for (const name of ['api', 'wide', 'greeter']) await callee.intentions(name, { Permissions })
  const { api, wide, greeter } = caller.upstreams
  await comes('http /private', '403', async () => (await calls.http(api, { path: '/private' })).outcome)
  await comes('http2 /private', '403', () => calls.http2(wide, { path: '/private' }))
  if (judgesGrpc(callee)) await comes('grpc Other', 'grpc-status 7', () => calls.http2(greeter, { path: '/test.Greeter/Other' }, true))
  const seen = [
    (await calls.http(api, { path: '/public/x' })).outcome,
    (await calls.http(api, { path: '/public/x', method: 'POST', body: 'x' })).outcome,
    (await calls.http(api, { path: '/private', headers: { 'x-key': 'open' } })).outcome,
    await calls.http2(wide, { path: '/public' }),
    await calls.http2(greeter, { path: '/test.Greeter/Hello' }, true),
  ].join()
  if (seen !== '200,403,200,200,grpc-status 0') throw new Error(`seen ${seen}`)
  return `path, method and header decide, in http and http2${judgesGrpc(callee) ? ' and grpc' : '; grpc not judged'}`
}

/** Peers and locals do not decide for each other, and the more exact source wins. */
async function wildcards({ caller, callee }: Way): Promise<string> {
  const { api } = caller.upstreams
  const outcome = async () => (await calls.http(api)).outcome
  await callee.intentions('api', { Name: '*', Action: 'deny' })
  await comes('peer *: deny', '403', outcome)
  await callee.intentions('api', { Action: 'allow' }, { Name: '*', Action: 'deny' })
  await comes('web before peer *', '200', outcome)
  await callee.intentions('api', { Name: '*', Action: 'allow' }, { Name: 'web', Action: 'deny' })
  await comes('web denied before peer * allowed', '403', outcome)
  await callee.intentions('api', { Name: '*', Action: 'allow' })
  await comes('peer *: allow', '200', outcome)
  await callee.api('PUT', '/v1/config', {
    Kind: 'service-intentions',
    Name: 'api',
    Sources: [
      { Name: '*', Action: 'deny' },
      { Name: 'web', Peer: callee.peer, Action: 'allow' },
    ],
  })
  await pause(1000)
  await comes('local * says nothing of peers', '200', outcome)
  return 'peer * denies and allows, web wins over it, local * says nothing of peers'
}

/** What the app of the caller says of itself counts for nothing. */
async function forged({ caller, callee }: Way): Promise<string> {
  await callee.intentions('api', { Name: 'admin', Action: 'allow' }, { Name: '*', Action: 'deny' })
  const { api } = caller.upstreams
  await comes('web is denied', '403', async () => (await calls.http(api)).outcome)
  const bundle = (await caller.api('GET', '/v1/connect/ca/roots')).json as { TrustDomain: string }
  const admin = `spiffe://${bundle.TrustDomain}/ns/default/dc/${caller.cluster.datacenter}/svc/admin`
  for (const value of [`By=x;URI=${admin}`, `By=x;Hash=00;Subject="";URI=${admin},By=y;URI=${admin}`]) {
    const { outcome } = await calls.http(api, { headers: { 'x-forwarded-client-cert': value } })
    if (outcome !== '403') throw new Error(`${value}: ${outcome}`)
  }
  await callee.intentions('api', { Action: 'allow' })
  await comes('web is allowed', '200', async () => (await calls.http(api)).outcome)
  const { seen } = await calls.http(api, { headers: { 'x-forwarded-client-cert': `By=x;URI=${admin}` } })
  if (seen === undefined || String(seen.headers['x-forwarded-client-cert']).includes('/svc/admin'))
    throw new Error('the app saw the forged one')
  return 'forged XFCC: 403, and never reaches the app'
}

async function healthFlips({ caller, callee }: Way): Promise<string> {
  await callee.mark('api', 'fail')
  await comes('critical is seen', 'critical', async () => (await caller.imported('service', 'api')).join())
  await comes('calls end', '503', async () => (await calls.http(caller.upstreams.api)).outcome)
  await callee.mark('api', 'pass')
  await comes('passing is seen', 'passing', async () => (await caller.imported('service', 'api')).join())
  await comes('calls go on', '200', async () => (await calls.http(caller.upstreams.api)).outcome)
  return 'critical: 503; passing: 200'
}

/** The caller's own gateway stands between: it passes on by name. */
async function localMode(way: Way): Promise<string> {
  const { caller } = way
  const mode = (Mode: string) => caller.api('PUT', '/v1/config', { Kind: 'proxy-defaults', Name: 'global', MeshGateway: { Mode } })
  await mode('local')
  await pause(2000)
  await callsWork(way)
  await mode('remote')
  await pause(2000)
  await callsWork(way)
  return 'every call, through the own gateway and without it'
}

/** The callee's gateway is reached by a name. */
async function hostName(way: Way): Promise<string> {
  await replaceGateway(way, 'localhost')
  await callsWork(way)
  await replaceGateway(way)
  await callsWork(way)
  return 'every call, by a host name and by an address again'
}

/** Http ends at a gateway of ours as it does at one of Consul's. */
async function ending(way: Way): Promise<string> {
  const { caller, callee } = way
  const callers = async () => {
    const { seen } = await calls.http(caller.upstreams.api)
    return String(String(seen?.headers['x-forwarded-client-cert']).split(',').length)
  }
  await callee.terminateHttp(true)
  // What is open passes through until it ends.
  await callee.export('plain')
  await pause(2000)
  await callee.export(...all, 'plain')
  await callsWork(way)
  await comes('two callers are named', '2', callers)
  await callee.intentions('api', { Action: 'deny' })
  await comes('denied', '403', async () => (await calls.http(caller.upstreams.api)).outcome)
  await callee.intentions('api', { Action: 'allow' })
  await callee.terminateHttp(false)
  await callsWork(way)
  return 'every call; the caller is the one that is judged'
}

async function unexport(way: Way): Promise<string> {
  const { caller, callee } = way
  await callee.export('wide', 'greeter', 'plain')
  await comes('http', 'gone', async () => ((await calls.http(caller.upstreams.api)).outcome === '200' ? '200' : 'gone'))
  await comes('tcp', 'gone', async () => ((await calls.tcp(caller.upstreams.db)) === 'echo' ? 'echo' : 'gone'))
  for (const name of ['api', 'db']) await comes(`${name} is not imported`, '', async () => (await caller.imported('connect', name)).join())
  await callee.export(...all, 'plain')
  await callsWork(way)
  return 'calls end, and come back with the export'
}

async function deleteAndPeer(deleting: Side, other: Side, ways: Way[]): Promise<void> {
  await row([{ caller: deleting, callee: other }], `${deleting.name} deletes the peering`, async () => {
    await deleting.api('DELETE', `/v1/peering/${deleting.peer}`)
    await comes(`${other.name} hears of it`, 'TERMINATED', () => other.peering())
    for (const side of [deleting, other]) {
      const way = ways.find(({ caller }) => caller === side)!
      await comes(`calls of ${side.name} end`, 'ended', async () =>
        (await calls.http(way.caller.upstreams.api)).outcome === '200' ? '200' : 'ended',
      )
    }
    await other.api('DELETE', `/v1/peering/${other.peer}`)
    await comes('both forget it', 'none,none', async () => `${await deleting.peering()},${await other.peering()}`)
    return 'TERMINATED there, and calls end both ways'
  })
  await row([{ caller: deleting, callee: other }], `peered again with a token from ${deleting.name}`, () => tokenFrom(deleting, other))
  await row(ways, 'calls after that', callsWork)
}

async function suite(): Promise<void> {
  const [isthmus, consul] = await Promise.all([Side.start('isthmus'), Side.start('Consul')])
  const ways: Way[] = [
    { caller: isthmus, callee: consul },
    { caller: consul, callee: isthmus },
  ]
  const head = ways.map(({ caller, callee }) => `${caller.name} calls ${callee.name}`)
  try {
    await row([ways[0]!], 'a token from Consul', () => tokenFrom(consul, isthmus))
    await Promise.all([isthmus.startProxies(), consul.startProxies()])
    await row(ways, 'exports arrive', exportsArrive)
    await row(ways, 'intentions are written', allowAll)
    await row(ways, 'calls', callsWork)
    await row(ways, 'deny and allow', denyAndAllow)
    await row(ways, 'L7 permissions', l7)
    await row(ways, 'wildcards', wildcards)
    await row(ways, 'a forged caller', forged)
    await row(ways, 'intentions are open again', allowAll)
    await row(ways, 'health flips', healthFlips)
    await row(ways, 'un-export', unexport)
    await row(ways, 'mode local', localMode)
    await row(ways, 'a gateway by host name', hostName)
    await row([ways[1]!], 'http ends at our gateway', ending)
    await upheaval(ways, table)
    await row(ways, 'calls after all that', callsWork)
    await deleteAndPeer(isthmus, consul, ways)
    await deleteAndPeer(consul, isthmus, ways)
  } finally {
    say(`\n${table.text(head)}`)
    for (const side of [isthmus, consul]) await side.keepLogs(process.env['ISTHMUS_LOGS'])
    await Promise.all([isthmus.stop(), consul.stop()])
  }
}

// However it ends, what it started ends with it.
process.on('exit', () => {
  for (const pid of tree(process.pid)) if (pid !== process.pid) process.kill(pid, 'SIGKILL')
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))

if (consulBin === undefined || envoyBin === undefined) {
  const missing = [consulBin === undefined && 'CONSUL_BIN', envoyBin === undefined && 'ENVOY_BIN'].filter(Boolean).join(' and ')
  say(`SKIPPED: ${missing} is not set: nothing was tested live against a real Consul and its Envoys`)
} else {
  await suite()
  const { seen, failed } = table
  say(`\n${seen} rows seen, ${failed} failed`)
  process.exitCode = failed > 0 ? 1 : 0
}
