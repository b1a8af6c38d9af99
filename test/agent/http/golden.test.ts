/**
 * Recorded requests of a real Consul 1.16.4, replayed in order against a fresh agent. Everything must be equal that is not in the
 * table of differences; and what is in that table must really differ, so that the table cannot go stale.
 */
import t from 'tap'
import { agentWithHttp } from '../../support/agent-parts.ts'
import { recording, recordings, Replay } from '../../support/golden-http.ts'
import { differences, orders, type Step } from './golden-cases.ts'

const areas = ['general', 'agent', 'catalog', 'health', 'kv', 'status', 'connect-ca', 'config', 'intentions', 'discovery-chain', 'peering']

t.test('the recorded answers, one agent through all of them', async t => {
  const agent = await agentWithHttp({ nodeMeta: { rack: 'r1', 'rfc1035-note': 'plain text' }, sidecarPorts: { min: 23_900, max: 23_949 } })
  t.teardown(() => agent.close())
  const replay = new Replay(agent.url)
  for (const area of areas) {
    await t.test(area, async t => {
      const order: Step[] = orders[area] ?? recordings(area)
      const names = order.filter(step => typeof step === 'string')
      t.same(
        [...names].sort(),
        recordings(area).filter(name => !(differences[`${area}/${name}`] ?? '').startsWith('absent: ')),
        'every recording is replayed',
      )
      for (const step of order) {
        if (typeof step !== 'string') {
          await replay.aside(...step)
          continue
        }
        const { wanted, found } = await replay.play(recording(area, step))
        const reason = differences[`${area}/${step}`]
        if (reason === undefined) t.strictSame(found, wanted, step)
        else t.notSame(found, wanted, `${step} differs: ${reason}`)
      }
    })
  }
})
