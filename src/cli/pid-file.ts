/** The file that says which process serves. It is replaced whole, and removed only by the process that it names. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { messageOf } from '../lib/errors.ts'
import { CliError } from './context.ts'

export class PidFile {
  readonly #path: string | undefined

  constructor(path: string | undefined) {
    this.#path = path
  }

  write(): void {
    if (this.#path === undefined) return
    const passing = `${this.#path}.${process.pid}`
    try {
      writeFileSync(passing, `${process.pid}\n`)
      renameSync(passing, this.#path)
    } catch (error) {
      rmSync(passing, { force: true })
      throw new CliError(`cannot write the pid file: ${messageOf(error)}; choose another --pid-file`)
    }
  }

  remove(): void {
    if (this.#path === undefined) return
    try {
      if (readFileSync(this.#path, 'utf8').trim() === String(process.pid)) rmSync(this.#path)
    } catch {
      // Somebody else removed it.
    }
  }
}
