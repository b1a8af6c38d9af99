/**
 * How a command is declared and run: the program with its flags, the one place where an error becomes a message and an exit code
 * (spec/cli.md 1), and what commands share of reading their input and printing.
 */
import { Command, CommanderError, InvalidArgumentError } from 'commander'
import { isUtf8 } from 'node:buffer'
import { parseDuration } from '../lib/duration.ts'
import { messageOf } from '../lib/errors.ts'
import { compareText } from '../lib/order.ts'
import { normaliseArguments } from './arguments.ts'
import { AgentClient, readFile, withHttpFlags, type HttpFlags } from './client.ts'
import { CliError, readStdin, type CliContext } from './context.ts'

export type Register = (program: Command, context: CliContext) => void

/** Commands of one file, by the words that they begin with. */
export interface CommandGroup {
  names: readonly string[]
  load: () => Promise<Register>
}

/** Parses, runs, and gives back what the shell gets. */
export async function run(args: readonly string[], commands: readonly CommandGroup[], context: CliContext): Promise<number> {
  const program = new Command('isthmus')
    .description('A service mesh for services that live in several independently run clusters.')
    .showSuggestionAfterError()
    .showHelpAfterError('Every command, and every flag of one: isthmus [COMMAND] --help')
    .exitOverride()
    .configureOutput({ writeOut: text => context.stdout.write(text), writeErr: text => context.stderr.write(text) })
  const asked = commands.find(({ names }) => names.includes(args[0] ?? ''))
  // Whoever asks for help, or for what is not there, sees them all.
  for (const group of asked ? [asked] : commands) (await group.load())(program, context)
  try {
    await program.parseAsync(normaliseArguments(args, program), { from: 'user' })
    return 0
  } catch (error) {
    // As from `consul`, and from a shell.
    if (error instanceof CommanderError) return error.code === 'commander.unknownCommand' && asked === undefined ? 127 : error.exitCode
    const message = messageOf(error)
    if (message !== '') context.stderr.write(`${message}\n`)
    return error instanceof CliError ? error.exitCode : 1
  }
}

/** A command that talks to an agent: it has the flags for that, and its action gets a client. */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- says what the command's own options are; commander knows no types
export function agentCommand<Flags extends object>(
  parent: Command,
  name: string,
  description: string,
  context: CliContext,
  action: (call: { client: AgentClient; flags: Flags; args: string[]; context: CliContext }) => Promise<void>,
): Command {
  const command = withHttpFlags(parent.command(name).description(description))
  command.action(async (...received: unknown[]) => {
    const flags = received.at(-2) as Flags & HttpFlags
    await action({ client: new AgentClient(flags, context), flags, args: command.args, context })
  })
  return command
}

/** Puts `Error <doing x>: ` before what an agent or the network said. */
export async function doing<T>(what: string, work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw new CliError(`Error ${what}: ${messageOf(error)}`, error instanceof CliError ? error.exitCode : 1, { cause: error })
  }
}

export function say(context: CliContext, text: string): void {
  context.stdout.write(`${text}\n`)
}

/** Repeatable `k=v`. */
export function collectPairs(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('write it as key=value.')
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) }
}

/** Repeatable. */
export function collectTexts(text: string, before: string[] = []): string[] {
  return [...before, text]
}

export function commaSeparated(text: string, before: string[] = []): string[] {
  return [
    ...before,
    ...text
      .split(',')
      .map(each => each.trim())
      .filter(each => each !== ''),
  ]
}

/** As Go writes it. */
export function durationMs(text: string): number {
  const ms = parseDuration(text)
  if (ms === undefined || ms < 0) throw new InvalidArgumentError('write a duration, such as 500ms or 1m.')
  return ms
}

/** The same, as it was written. */
export function durationText(text: string): string {
  durationMs(text)
  return text
}

export function wholeNumber(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('write a whole number.')
  return Number(text)
}

export function parseConfigFormat(text: string): 'hcl' | 'json' | 'yaml' {
  if (text !== 'hcl' && text !== 'json' && text !== 'yaml') throw new InvalidArgumentError('write hcl, json or yaml.')
  return text
}

export type Format = 'pretty' | 'json'

export function withFormat(command: Command): Command {
  return command.option('--format <format>', 'pretty or json', 'pretty')
}

export function checkFormat(format: string): Format {
  if (format !== 'pretty' && format !== 'json') throw new CliError('Invalid format, valid formats are {json|pretty}')
  return format
}

/** A value that may be given as it is, as `@file`, or as `-` for standard input: how secrets stay out of the arguments. */
export async function readValue(text: string, context: CliContext): Promise<Buffer> {
  if (text === '-') return readStdin(context)
  return text.startsWith('@') ? readFile(text.slice(1)) : Buffer.from(text)
}

/** `-` or a file, as text. */
export async function readText(name: string, context: CliContext): Promise<string> {
  const bytes = name === '-' ? await readStdin(context) : readFile(name)
  if (!isUtf8(bytes)) throw new CliError(`${name === '-' ? 'standard input' : name} is not text`)
  return bytes.toString()
}

/** In the order of their names. */
export function entriesByName<T>(map: Record<string, T>): [string, T][] {
  return Object.entries(map).sort(([a], [b]) => compareText(a, b))
}

/** Columns as wide as their widest cell, blanks between; the last is not padded. */
export function table(rows: readonly (readonly string[])[], gap = 2): string {
  const widths: number[] = []
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)))
  const line = (row: readonly string[]) => row.map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i]! + gap))).join('')
  return rows.map(line).join('\n')
}
