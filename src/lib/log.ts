/**
 * Logs: pino, one JSON object a line on stderr. Messages are constant and lower-case, facts are fields, and the fields named
 * here never reach a line in the clear.
 */
import { destination, pino, type DestinationStream, type Logger } from 'pino'

export type { Logger }

/** Consul's level names (case-insensitive) to pino's. */
const levels: Record<string, string> = {
  trace: 'trace',
  debug: 'debug',
  info: 'info',
  warn: 'warn',
  warning: 'warn',
  err: 'error',
  error: 'error',
  off: 'silent',
}

/** pino's name for a level as Consul spells it; undefined when there is no such level. */
export function logLevel(name: string): string | undefined {
  return levels[name.toLowerCase()]
}

const secretFields = [
  'token',
  'secret',
  'privateKey',
  'privateKeyPem',
  'peeringToken',
  'establishmentSecret',
  'streamSecret',
  'authorization',
  'x-consul-token',
]
/** In a line itself, in its fields, and in theirs: as deep as anything is logged. */
const secretPaths = secretFields.flatMap(field => [`["${field}"]`, `*["${field}"]`, `*.*["${field}"]`])

export interface LogOptions {
  /** A level as Consul spells it; "info" unless told. */
  level?: string
  /** Where lines go; stderr unless told. */
  stream?: DestinationStream
}

export function createLogger(options: LogOptions = {}): Logger {
  return pino(
    {
      level: logLevel(options.level ?? 'info') ?? 'info',
      base: undefined,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: label => ({ level: label }) },
      redact: { paths: secretPaths, censor: '[secret]' },
    },
    options.stream ?? destination({ dest: 2, sync: true }),
  )
}

/** A logger that says nothing, for embedders and tests. */
export function silentLogger(): Logger {
  return pino({ level: 'silent' })
}

/** One line of the log, parsed. */
export interface LogLine {
  /** pino's name of its level. */
  level: string
  time: string
  msg: string
  fields: Record<string, unknown>
}

/** A stream for `createLogger` that also tells each line to whoever listens; what is beneath the logger's level never comes here. */
export class LogTap implements DestinationStream {
  readonly #beneath: DestinationStream
  readonly #listeners = new Set<(line: string) => void>()

  constructor(beneath: DestinationStream = destination({ dest: 2, sync: true })) {
    this.#beneath = beneath
  }

  write(line: string): void {
    this.#beneath.write(line)
    for (const listener of this.#listeners) listener(line)
  }

  listen(listener: (line: string) => void): { close(): void } {
    this.#listeners.add(listener)
    return { close: () => void this.#listeners.delete(listener) }
  }
}

/** Undefined for a text that is no line of ours. */
export function parseLogLine(line: string): LogLine | undefined {
  try {
    const {
      level = '',
      time = '',
      msg = '',
      ...fields
    } = JSON.parse(line) as Record<string, unknown> & Partial<Record<'level' | 'time' | 'msg', string>>
    return { level, time, msg, fields }
  } catch {
    return undefined
  }
}

const severities = ['trace', 'debug', 'info', 'warn', 'error', 'fatal']

/** True when a line of `level` is at least as severe as `least`; both are pino's names. */
export function isAtLeast(level: string, least: string): boolean {
  return least !== 'silent' && severities.indexOf(level) >= severities.indexOf(least)
}
