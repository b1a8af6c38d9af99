/**
 * The sources that decide about calls of one service, made of its service-intentions entry and that of `*` (spec/data-plane.md 7): what a
 * sidecar is told, and what a test of intentions judges by. They come in descending precedence.
 */
import type { ServiceIntentions } from './intention-entry.ts'
import { precedenceOf } from './intention.ts'
import type { Intentions } from './snapshot.ts'

type Source = Intentions['sources'][number]

/** In an entry's Meta: what it would deny is let in, counted and logged. */
const auditMeta = 'isthmus-audit'

export function compileSources(entryOf: (name: string) => ServiceIntentions | undefined, service: string): Intentions {
  const sources = [service, '*'].flatMap(name => {
    const entry = entryOf(name)
    return entry === undefined ? [] : entry.sources.map(source => sourceOf(source, entry))
  })
  return { sources: sources.sort((a, b) => b.precedence - a.precedence) }
}

function sourceOf(source: ServiceIntentions['sources'][number], entry: ServiceIntentions): Source {
  return {
    ...source,
    destination: entry.name,
    precedence: precedenceOf(source.name, entry.name),
    ...(entry.jwt === undefined ? {} : { jwt: entry.jwt }),
    ...(entry.meta?.[auditMeta] === 'true' ? { audit: true } : {}),
  }
}

/** Names of the providers whose tokens are asked for, each once. */
export function providersAsked({ sources }: Intentions): Set<string> {
  const requirements = sources.flatMap(({ jwt, permissions = [] }) => [jwt, ...permissions.map(permission => permission.jwt)])
  return new Set(requirements.flatMap(each => each?.providers.map(provider => provider.name) ?? []))
}
