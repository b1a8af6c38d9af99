/**
 * Recorded requests of a real Consul 1.16.4, replayed in order against a fresh agent. Everything must be equal that is not in the
 * table of differences; and what is in that table must really differ, so that the table cannot go stale.
 */
import t from 'tap'
import { agentWithHttp } from '../../support/agent-parts.ts'
import { recording, Replay } from '../../support/golden-http.ts'
import { areas, differences, orders, replayed, type Step } from './golden-cases.ts'

t.test('the recorded answers, one agent through all of them', async t => {
  const agent = await agentWithHttp({ nodeMeta: { rack: 'r1', 'rfc1035-note': 'plain text' }, sidecarPorts: { min: 23_900, max: 23_949 } })
  t.teardown(() => agent.close())
  const replay = new Replay(agent.url)
  const played = new Set<string>()
  for (const area of areas) {
    await t.test(area, async t => {
      const order: Step[] = orders[area] ?? replayed(area)
      for (const step of order) {
        if (typeof step !== 'string') {
          await replay.aside(...step)
          continue
        }
        const name = step.includes('/') ? step : `${area}/${step}`
        played.add(name)
        const { wanted, found } = await replay.play(recording(name))
        const reason = differences[name]
        if (reason === undefined) t.strictSame(found, wanted, name)
        else t.notSame(found, wanted, `${name} differs: ${reason}`)
      }
    })
  }
  const wanted = areas.flatMap(area => replayed(area).map(name => `${area}/${name}`))
  t.same([...played].sort(), wanted.sort(), 'every recording is replayed')
})
