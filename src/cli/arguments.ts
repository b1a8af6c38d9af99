/**
 * Consul's spelling of flags for commander: `-http-addr=x`, `-cas=true` and values that begin with a dash, as Go's flag package reads
 * them. A flag that no command knows is passed on, so that commander names it; behind an argument it is an argument, as in Go.
 */
import type { Command, Option } from 'commander'

export function normaliseArguments(args: readonly string[], program: Command): string[] {
  const out: string[] = []
  const operands: string[] = []
  let command = program
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!
    // Its own flags end where the command line of the program that it runs begins, as in Go.
    if (operands.length > 0 && runsProgram(command)) return [...out, '--', ...operands, ...args.slice(i)]
    if (arg === '--') return [...out, ...separated([...operands, ...args.slice(i + 1)], true)]
    const named = /^--?([A-Za-z][A-Za-z0-9-]*)(?:=([\s\S]*))?$/.exec(arg)
    const option = named ? findOption(command, named[1]!) : undefined
    // One letter is commander's, such as -h, unless a flag is called so.
    const flag = named && (option || named[1]!.length > 1) ? named : undefined
    const inner = command.commands.find(each => each.name() === arg || each.aliases().includes(arg))
    if (inner) {
      out.push(arg)
      command = inner
      continue
    }
    if (!flag || (!option && operands.length > 0)) {
      operands.push(arg)
      continue
    }
    const [, name, value] = flag as unknown as [string, string, string | undefined]
    if (option?.isBoolean()) out.push(...booleanFlag(command, name, value))
    else if (option && value === undefined && args[i + 1] !== undefined) {
      // Joined, because a value may begin with a dash.
      out.push(`--${name}=${args[i + 1]}`)
      i += 1
    } else out.push(value === undefined ? `--${name}` : `--${name}=${value}`)
  }
  return [...out, ...separated(operands, false)]
}

/** A first one that begins with a dash is left for commander to name, unless it is a lone dash or stands behind `--`. */
function separated(operands: string[], forced: boolean): string[] {
  const dashed = operands.slice(forced ? 0 : 1).some(each => each.startsWith('-') && each !== '-')
  return forced || dashed ? ['--', ...operands] : operands
}

function findOption(command: Command, name: string): Option | undefined {
  for (let at: Command | null = command; at; at = at.parent) {
    const found = at.options.find(option => option.long === `--${name}`)
    if (found) return found
  }
  return undefined
}

function runsProgram(command: Command): boolean {
  return command.registeredArguments.at(-1)?.name() === 'child'
}

/** `-cas=true` is `--cas`; `-cas=false` is `--no-cas`, or as if it were not there. Anything else is left for commander to refuse. */
function booleanFlag(command: Command, name: string, value: string | undefined): string[] {
  if (value === undefined || /^(?:1|t|true)$/i.test(value)) return [`--${name}`]
  if (!/^(?:0|f|false)$/i.test(value)) return [`--${name}=${value}`]
  return findOption(command, `no-${name}`) ? [`--no-${name}`] : []
}
