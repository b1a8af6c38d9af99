/** The demo: the four steps of cluster peering, told while they happen, then one request that crosses, is denied, and is allowed again. */
import { ask, eastOfWest, peeringSteps, until, westOfEast, type DevClusters } from './clusters.ts'

export async function walkThrough(clusters: DevClusters, say: (line: string) => void): Promise<void> {
  const { webPort } = clusters
  const call = async (expected: number) => {
    await until(`web to get ${expected}`, async () => (await ask(webPort, '/hello')).status === expected)
    const answer = await ask(webPort, '/hello')
    say(`   $ curl http://127.0.0.1:${webPort}/hello\n   ${answer.text}\n`)
  }

  say('1. Create a peering token, in west')
  say(`   $ isthmus peering generate-token --name ${eastOfWest} --http-addr ${address(clusters.west.agent.httpUrl)}`)
  const token = await peeringSteps.createToken(clusters)
  say(`   ${token.slice(0, 48)}… (${token.length} characters, to be used once)\n`)

  say('2. Establish the peering, in east')
  say(`   $ isthmus peering establish --name ${westOfEast} --peering-token … --http-addr ${address(clusters.east.agent.httpUrl)}`)
  await peeringSteps.establish(clusters, token)
  say('   ACTIVE on both sides: one mTLS-proved stream, each side keeps its own CA\n')

  say('3. Export api from west to east (config entry exported-services)')
  await peeringSteps.exportApi(clusters)
  say('   east can now find api, but no intention allows the call yet:')
  await call(403)

  say('4. Authorize web of east to call api (config entry service-intentions)')
  await peeringSteps.authorize(clusters, 'allow')
  say('   web -> sidecar -> mTLS -> gateway of west -> sidecar -> api:')
  await call(200)

  say('Deny it: the next request on the open connections is refused')
  await peeringSteps.authorize(clusters, 'deny')
  await call(403)

  say('Allow it again')
  await peeringSteps.authorize(clusters, 'allow')
  await call(200)
}

/** All four steps without a word. */
export async function peerQuietly(clusters: DevClusters): Promise<void> {
  await peeringSteps.establish(clusters, await peeringSteps.createToken(clusters))
  await peeringSteps.exportApi(clusters)
  await peeringSteps.authorize(clusters, 'allow')
  await until('api to answer web', async () => (await ask(clusters.webPort)).status === 200)
}

/** What to try by hand. */
export function whatToTry(clusters: DevClusters): string {
  const { east, west, webPort, upstreamPort } = clusters
  const intention = `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Peer":"${eastOfWest}","Action":"deny"}]}`
  return `Try it:
  curl http://127.0.0.1:${webPort}/                                    web of east calls api of west
  curl -i http://127.0.0.1:${upstreamPort}/                                 the same, from the sidecar's own port
  dig @127.0.0.1 -p ${east.agent.dnsPort ?? 0} api.service.${westOfEast}.peer.consul SRV    find it by DNS
  curl "${east.agent.httpUrl}/v1/health/service/api?peer=${westOfEast}"      or by the API
  isthmus peering list --http-addr ${address(east.agent.httpUrl)}
  echo '${intention}' | isthmus config write - --http-addr ${address(west.agent.httpUrl)}
                                                                    now web gets 403
East: ${east.agent.httpUrl}   West: ${west.agent.httpUrl}   Ctrl-C ends both and leaves nothing behind.`
}

function address(url: string): string {
  return url.replace('http://', '')
}
