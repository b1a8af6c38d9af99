/** `isthmus whatif`: what config entries would change if they were written, or deleted, before anybody does it. */
import type { Command } from 'commander'
import { isConfigEntryKind, type ConfigEntry } from '../mesh/config-entry.ts'
import type { EntryName } from '../mesh/entry-set.ts'
import { whatIf, type Changed, type WhatIf } from '../mesh/what-if.ts'
import type { Outcome } from '../mesh/outcome.ts'
import { shown } from '../mesh/why-report.ts'
import { agentEntries, entryOf } from './agent-entries.ts'
import { agentCommand, checkFormat, readText, say, withFormat } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { field, parseDocument } from './document.ts'

const maxPrinted = 100

export function registerWhatif(program: Command, context: CliContext): void {
  const what = 'Say which calls would end otherwise if config entries were written or deleted'
  const command = agentCommand<{ format: string }>(program, 'whatif', what, context, async ({ args, client, flags }) => {
    const format = checkFormat(flags.format)
    const [name, ...more] = args
    if (name === undefined || more.length > 0) throw new CliError('Say which file holds the change: isthmus whatif FILE')
    const { write, remove } = changeOf(parseDocument(await readText(name, context), name), name)
    const { entries, context: cluster, services } = await agentEntries(client)
    const found = whatIf(entries, entries.changed(write, remove), services, cluster)
    say(context, format === 'json' ? JSON.stringify(found.changed.map(changeView)) : changeText(found))
  })
  withFormat(command).argument('[file]', 'a config entry, or write: [ENTRY...] and delete: [{Kind, Name}...]; - for standard input')
}

function changeOf(document: Record<string, unknown>, name: string): { write: ConfigEntry[]; remove: EntryName[] } {
  if (field(document, 'kind') !== undefined) return { write: [entryOf(document, name)], remove: [] }
  const unknown = Object.keys(document).find(key => key !== 'write' && key !== 'delete')
  if (unknown !== undefined) throw new CliError(`${name}: unknown key ${unknown}; it holds a config entry, or write: and delete:`)
  const list = (key: string): unknown[] => {
    const value = document[key] ?? []
    if (!Array.isArray(value)) throw new CliError(`${name}: ${key} must be a list`)
    return value
  }
  const write = list('write').map((each, i) => entryOf(each, `${name}: write[${i}]`))
  const remove = list('delete').map((each, i) => nameIn(each, `${name}: delete[${i}]`))
  if (write.length + remove.length === 0) throw new CliError(`${name} changes nothing: it holds neither write: nor delete:`)
  return { write, remove }
}

function nameIn(value: unknown, where: string): EntryName {
  const entry = typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  const [kind, name] = [field(entry, 'kind'), field(entry, 'name')]
  if (typeof kind !== 'string' || !isConfigEntryKind(kind) || typeof name !== 'string')
    throw new CliError(`${where} must have the Kind and the Name of an entry`)
  return { kind, name }
}

function requestOf({ call: { method, target, headers, claims } }: Changed): string {
  const more = [...headers.map(pair => pair.join(': ')), ...Object.keys(claims).map(each => `a token of ${each}`)]
  return `${method} ${target}${more.length === 0 ? '' : ` with ${more.join(', ')}`}`
}

function changeText({ changed, tried, unsampled, cut }: WhatIf): string {
  const lines = changed.slice(0, maxPrinted).map(each => {
    const { source, destination } = each.call
    return `${shown(source)} -> ${shown(destination)} ${requestOf(each)}\n  - ${outcomeText(each.before)}\n  + ${outcomeText(each.after)}`
  })
  if (changed.length > maxPrinted) lines.push(`and ${changed.length - maxPrinted} more; --format json has all`)
  lines.push(`${changed.length} of ${tried} calls at the rules' boundaries would end otherwise`)
  for (const pattern of unsampled) lines.push(`not tried: no example of the regex ${pattern} could be made`)
  if (cut) lines.push('not all: there are more boundaries than are tried')
  return lines.join('\n')
}

function outcomeText({ verdict, text }: Outcome): string {
  return `${verdict}: ${text}`
}

function changeView(changed: Changed) {
  const { call, before, after } = changed
  return {
    Source: shown(call.source),
    Destination: shown(call.destination),
    Request: requestOf(changed),
    Before: outcomeText(before),
    After: outcomeText(after),
  }
}
