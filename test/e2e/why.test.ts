/**
 * `isthmus why` against what really happens: two peered clusters of processes, each failure made for real, the explanation compared with the
 * outcome, on the importer's side and on the exporter's.
 */
import t from 'tap'
import type { ProbeReport } from '../../src/cli/why-probe.ts'
import { call, until, type ClusterProcess } from '../support/processes.ts'
import { eastName, startTwoClusters, westName } from '../support/two-clusters.ts'

t.setTimeout(120_000)

interface Explained {
  Verdict: string
  Code?: string
  Text: string
  Next?: string
  Steps: { Step: string; State: string; Code?: string; Text: string; Intentions?: { Rule: string; Decides: boolean; Why: string }[] }[]
  Live?: ProbeReport
}

async function why(cluster: ClusterProcess, ...args: string[]): Promise<Explained> {
  const { code, stdout, stderr } = await cluster.cli('why', ...args, '--format', 'json')
  if (code !== 0) throw new Error(stderr)
  return JSON.parse(stdout) as Explained
}

/** Step and code of everything that is not as it should be. */
const amiss = ({ Steps }: Explained) => Steps.filter(each => each.State !== 'ok').map(each => `${each.Step} ${each.State} ${each.Code}`)

t.test('a call into a peer, explained on both sides while it breaks', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const exporters = (destination: string, ...more: string[]) => why(west, `web@${eastName}`, '->', destination, ...more)
  const status = async (path = '/') => (await call(scene.apiPort, path, { timeoutMs: 5000 })).status
  const settled = (what: string, asked: () => Promise<Explained>, code: string | undefined) =>
    until(what, async () => {
      const found = await asked()
      return found.Code === code && found
    })

  const told = await east.cli('why', `web -> api@${westName} GET /x`, '--live')
  if (process.env['SHOW']) console.error(told.stdout, told.stderr)
  const there = await west.cli('why', `web@${eastName}`, 'api')
  if (process.env['SHOW']) console.error(there.stdout, there.stderr)
  const before = await why(east, 'web', `api@${westName}`, 'GET', '/x', '--live')
  t.same([before.Verdict, before.Code, amiss(before)], ['unknown', 'exporter-decides', ['intentions unknown exporter-decides']])
  t.match(before.Next, `isthmus why web@${eastName} '->' api GET /x`)
  t.match(before.Live, { verdict: 'allow', status: 200, differs: '' })
  const allowed = await exporters('api', 'GET', '/x')
  t.same([allowed.Verdict, amiss(allowed)], ['allow', []])
  t.match(allowed.Text, `peer:${eastName}/web => api allows it`)
})
