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
