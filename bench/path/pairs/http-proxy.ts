/** The npm package http-proxy as a pair: what a Node program would take for this. Kept-alive connections, mTLS both ways. */
import { freePorts } from '../../../test/support/free-ports.ts'
import { startOn } from '../../machine/programs.ts'
import { listening } from '../listening.ts'
import { pairOf, type Ground, type Pair } from '../pair.ts'

export async function startHttpProxyPair(ground: Ground): Promise<Pair> {
  const [port, between] = (await freePorts(2)) as [number, number]
  const { web, api, rootPath } = ground.certificates
  const hop = async (role: string, listen: number, next: number, identity: typeof web) => {
    const program = new URL('./http-proxy-hop.js', import.meta.url).pathname
    const words = [program, role, String(listen), String(next), rootPath, identity.certPath, identity.keyPath, api.dnsName]
    const running = startOn('measured', process.execPath, words)
    await listening(running, listen)
    return running
  }
  const inbound = await hop('inbound', between, ground.backend.http, api)
  const outbound = await hop('outbound', port, between, web)
  return pairOf(port, outbound, inbound)
}
