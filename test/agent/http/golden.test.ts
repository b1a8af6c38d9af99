/**
 * Recorded requests of a real Consul 1.16.4, replayed in order against a fresh agent. Everything must be equal that is not in the
 * table of differences, in an answer that differs too; and what is in that table must really differ, so that the table cannot go stale.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { agentWithHttp, type HttpTestAgent } from '../../support/agent-parts.ts'
import { recording, Replay, type Stand } from '../../support/golden-http.ts'
import { areas, differences, orders, replayed, type Step, unordered } from './golden-cases.ts'

t.setTimeout(120_000)

function standOf({ url, door, grpcTlsPort }: HttpTestAgent): Stand {
  return { url, ports: [door.port, ...(grpcTlsPort === undefined ? [] : [grpcTlsPort])] }
}

/** Takes what is at `a.b.c` out, and gives it; an answer of another shape stays as it is, and is told so in full. */
function take(answer: unknown, path: string): unknown {
  const names = path.split('.')
  const last = names.pop()!
  const holder = names.reduce((at, name) => (at as Record<string, unknown> | undefined)?.[name], answer) as
    | Record<string, unknown>
    | undefined
  const value = holder?.[last]
  delete holder?.[last]
  return value
}

/** From now on nothing that a peer gave is cleared away, until told so. */
function held({ parts: { catalog } }: HttpTestAgent): () => void {
  const purge = catalog.purgeImported.bind(catalog)
  let open = () => {}
  const gate = new Promise<void>(resolve => (open = resolve))
  catalog.purgeImported = async peer => {
    await gate
    await purge(peer)
  }
  return () => {
    catalog.purgeImported = purge
    open()
  }
}

t.test('the recorded answers, the same agents through all of them', async t => {
  const alpha = await agentWithHttp({ nodeMeta: { rack: 'r1', 'rfc1035-note': 'plain text' }, sidecarPorts: { min: 23_900, max: 23_949 } })
  t.teardown(() => alpha.close())
  const betaOptions = { datacenter: 'dc2', nodeName: 'beta', nodeId: '8763bfe0-31c7-80d5-0fc4-fd9d31364597' }
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-beta-'))
  let beta = await agentWithHttp({ ...betaOptions, dir })
  t.teardown(async () => {
    await beta.close()
    rmSync(dir, { recursive: true, force: true })
  })
  // The odd ones: a development agent with everything of http_config set, and one that is told to leave.
  const eps = await agentWithHttp({
    nodeName: 'eps',
    dev: true,
    config: {
      connect: { enabled: false },
      peering: { enabled: false },
      translate_wan_addrs: true,
      discovery_max_stale: '10s',
      http_config: {
        response_headers: { 'Access-Control-Allow-Origin': '*', 'X-Test': '1' },
        block_endpoints: ['/v1/kv'],
        allow_write_http_from: ['10.0.0.0/8'],
      },
    },
  })
  t.teardown(() => eps.close())
  const replay = new Replay({ alpha: standOf(alpha), beta: standOf(beta), eps: standOf(eps), delta: standOf(beta) })
  const played = new Set<string>()
  let release = () => {}
  for (const area of areas) {
    await t.test(area, async t => {
      const order: readonly Step[] = orders[area] ?? replayed(area)
      for (const step of order) {
        if (typeof step !== 'string') {
          if (step[0] === 'STOP') await beta.close()
          else if (step[0] === 'HOLD') release = held(alpha)
          else if (step[0] === 'RELEASE') release()
          else if (step[0] === 'START') replay.set('beta', standOf((beta = await agentWithHttp({ ...betaOptions, dir }))))
          else await replay.aside(...step)
          continue
        }
        const name = step.includes('/') ? step : `${area}/${step}`
        played.add(name)
        const { wanted, found } = await replay.play(recording(name), unordered.has(name))
        const { at = [], reason } = differences.get(name) ?? {}
        for (const path of at) t.notSame(take(found, path), take(wanted, path), `${name}: ${path} differs: ${reason}`)
        t.strictSame(found, wanted, name)
      }
    })
  }
  const wanted = areas.flatMap(area => replayed(area).map(name => `${area}/${name}`))
  t.same([...played].sort(), wanted.sort(), 'every recording is replayed')
})
