/** `isthmus why`: what becomes of a call, step by step, by what the agent knows, and with --live by trying it. */
import type { Command } from 'commander'
import { decode } from '../lib/shape.ts'
import { WhyReport } from '../mesh/why-report.ts'
import { agentCommand, checkFormat, collectTexts, doing, say, withFormat } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { probe } from './why-probe.ts'
import { probeText, reportText } from './why-text.ts'

interface Flags {
  header?: string[]
  peer?: string
  live?: boolean
  format: string
}

export function registerWhy(program: Command, context: CliContext): void {
  const command = agentCommand<Flags>(program, 'why', 'Explain what becomes of a call, step by step', context, async call => {
    const { flags, client } = call
    const format = checkFormat(flags.format)
    const query = { ...questionOf(call.args), peer: flags.peer, header: flags.header }
    const answer = await doing('asking why', client.json<Record<string, unknown>>('GET', '/v1/isthmus/why', { query }))
    const decoded = decode(WhyReport, answer)
    if (!decoded.ok) throw new CliError(`${client.address} answers in a way that this version does not know: ${decoded.issues[0]!.path}`)
    const live = flags.live ? await probe(decoded.value, query.path, flags.header ?? []) : undefined
    if (format === 'json') return say(context, JSON.stringify(live === undefined ? answer : { ...answer, Live: live }, undefined, 2))
    say(context, reportText(decoded.value))
    if (live !== undefined) say(context, `\n${probeText(live)}`)
  })
  // `->` begins with a dash; whatever else does is refused by questionOf.
  withFormat(command.allowUnknownOption())
    .argument('[call...]', "SRC '->' DST[@PEER] [METHOD PATH]; SRC@PEER is a caller of a peer")
    .option('--header <name:value>', 'a header of the request; repeatable', collectTexts)
    .option('--peer <peer>', 'the peer that the destination is in, as DST@PEER says it')
    .option('--live', "send the request through the source's sidecar too, and say where it differs (beside that sidecar)")
}

/** `web -> api GET /x`, in one argument or several, with or without the arrow. */
export function questionOf(args: readonly string[]): { source: string; destination: string; method: string; path: string } {
  const words = args
    .flatMap(each => (each.includes('->') && each !== '->' ? each.split(/\s*->\s*|\s+/) : each.split(/\s+/)))
    .filter(each => each !== '' && each !== '->')
  const unknown = words.find(each => each.startsWith('-'))
  if (unknown !== undefined) throw new CliError(`error: unknown option '${unknown}'`)
  const [source, destination, method = 'GET', path = '/', ...more] = words
  if (source === undefined || destination === undefined || more.length > 0) {
    throw new CliError("Say who calls whom: isthmus why SRC '->' DST[@PEER] [METHOD PATH]")
  }
  if (!path.startsWith('/') && path !== '*') throw new CliError(`${JSON.stringify(path)} is no path; it begins with a slash`)
  return { source, destination, method: method.toUpperCase(), path }
}
