/**
 * Consul's spelling of flags for commander: `-http-addr=x`, `-cas=true` and values that begin with a dash, as Go's flag package reads
 * them. A flag that no command knows is passed on, so that commander names it.
 */
import type { Command, Option } from 'commander'

export function normaliseArguments(args: readonly string[], program: Command): string[] {
  const out: string[] = []
  let command = program
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!
    if (arg === '--') return [...out, ...args.slice(i)]
    const flag = /^--?([A-Za-z][A-Za-z0-9-]+)(?:=([\s\S]*))?$/.exec(arg)
    if (!flag) {
      out.push(arg)
      command = command.commands.find(each => each.name() === arg || each.aliases().includes(arg)) ?? command
      continue
    }
    const [, name, value] = flag as unknown as [string, string, string | undefined]
    const option = findOption(command, name)
    if (option?.isBoolean()) out.push(...booleanFlag(name, value))
    else if (option && value === undefined && args[i + 1] !== undefined) {
      // Joined, because a value may begin with a dash.
      out.push(`--${name}=${args[i + 1]}`)
      i += 1
    } else out.push(value === undefined ? `--${name}` : `--${name}=${value}`)
  }
  return out
}

function findOption(command: Command, name: string): Option | undefined {
  for (let at: Command | null = command; at; at = at.parent) {
    const found = at.options.find(option => option.long === `--${name}`)
    if (found) return found
  }
  return undefined
}

/** `-cas=true` is `--cas`; `-cas=false` is as if it were not there. Anything else is left for commander to refuse. */
function booleanFlag(name: string, value: string | undefined): string[] {
  if (value === undefined || /^(?:1|t|true)$/i.test(value)) return [`--${name}`]
  return /^(?:0|f|false)$/i.test(value) ? [] : [`--${name}=${value}`]
}
