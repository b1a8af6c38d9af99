/** What the kv commands know of the API: keys as paths, and answers without a number that JavaScript would round. */

export interface KvView {
  Key: string
  Value: string | null
  /** Digits where a number would not be exact. */
  Flags: number | string
  LockIndex: number
  Session?: string
  CreateIndex: number
  ModifyIndex: number
}

/** A slash separates; everything else of a key is escaped. */
export function keyPath(key: string): string {
  return `/v1/kv/${key.replace(/^\/+/, '').split('/').map(encodeURIComponent).join('/')}`
}

/** Puts digits that are too many for a number into quotes. Inside a string the quotes of `"Flags":` would be escaped. */
export function longFlags(body: Buffer): Buffer {
  return Buffer.from(body.toString().replace(/"Flags":(\s*)(\d{16,})/g, '"Flags":$1"$2"'))
}

/** Takes them out again of what is printed. */
export function unquotedFlags(text: string): string {
  return text.replace(/"Flags":(\s*)"(\d{16,})"/g, '"Flags":$1$2')
}
