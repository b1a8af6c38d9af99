/** Consul's own proxy (`consul connect proxy`, plain TCP over mTLS, no HTTP), where CONSUL_BIN names a Consul: an agent and two proxies. */
import { freePorts } from '../../../test/support/free-ports.ts'
import { ConsulProcess } from '../../../test/interop/consul-process.ts'
import { startOn } from '../../machine/programs.ts'
import { endsWithUs } from '../../machine/scratch.ts'
import { listening } from '../listening.ts'
import { pairOf, type Ground, type Pair } from '../pair.ts'

export async function startConsulPair(consul: string, ground: Ground): Promise<Pair> {
  const server = await ConsulProcess.start('dc1')
  endsWithUs(server.agent)
  const [port, between] = (await freePorts(2)) as [number, number]
  await server.api('PUT', '/v1/agent/service/register', { Name: 'api', Port: ground.backend.http })
  await server.api('PUT', '/v1/agent/service/register', { Name: 'web', Port: 9 })
  await server.api('PUT', '/v1/config', { Kind: 'service-intentions', Name: 'api', Sources: [{ Name: 'web', Action: 'allow' }] })
  const proxy = async (listen: number, ...args: string[]) => {
    const words = ['connect', 'proxy', `-http-addr=127.0.0.1:${server.ports.http}`, '-log-level=warn', ...args]
    const running = startOn('measured', consul, words, { GOMAXPROCS: '1' })
    await listening(running, listen)
    return running
  }
  const app = `127.0.0.1:${ground.backend.http}`
  const inbound = await proxy(between, '-service=api', `-service-addr=${app}`, `-listen=127.0.0.1:${between}`, '-register')
  const outbound = await proxy(port, '-service=web', `-upstream=api:127.0.0.1:${port}`)
  const pair = pairOf(port, outbound, inbound)
  const stop = async () => {
    await pair.stop()
    await server.stop()
  }
  return { ...pair, beside: [{ role: 'agent', pid: server.agent.child.pid! }], stop }
}
