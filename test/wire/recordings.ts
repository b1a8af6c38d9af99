/** Reads the recorded streams of real Consul under test/golden/peering (see the README of that folder). */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ReplicationMessage } from '../../src/wire/gen/peerstream.ts'

const folder = join('test', 'golden', 'peering')

export interface RecordedMessage {
  dir: string
  hex: string
  label?: string
  message: ReplicationMessage
}

/** Every message of a recording, in order. */
export function recordedMessages(file: string): RecordedMessage[] {
  return recordingLines(file).flatMap(line =>
    typeof line.hex === 'string'
      ? [{ dir: String(line.dir), hex: line.hex, label: line.label, message: ReplicationMessage.decode(Buffer.from(line.hex, 'hex')) }]
      : [],
  )
}

/** Messages and events (steps, statuses) of a recording, as they were written down. */
export function recordingLines(
  file: string,
): { t_ms: number; dir?: string; hex?: string; label?: string; event?: string; info?: string }[] {
  const recording = JSON.parse(readFileSync(join(folder, file), 'utf8')) as { records: [] }
  return recording.records
}

export function recordings(): string[] {
  return readdirSync(folder).filter(name => /^0.*\.json$/.test(name))
}
