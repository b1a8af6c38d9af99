/** Work of one key runs in the order in which it came and never overlaps; keys do not wait for each other. */

export class Turns {
  /** The last work of each key, settled without an error. */
  readonly #last = new Map<string, Promise<void>>()

  run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const result = (this.#last.get(key) ?? Promise.resolve()).then(work)
    const over = (): void => {
      if (this.#last.get(key) === settled) this.#last.delete(key)
    }
    const settled: Promise<void> = result.then(over, over)
    this.#last.set(key, settled)
    return result
  }

  isBusy(key: string): boolean {
    return this.#last.has(key)
  }

  /** Resolves when what is under way now, for keys that begin so, is over. */
  async idle(prefix: string): Promise<void> {
    await Promise.all([...this.#last].filter(([key]) => key.startsWith(prefix)).map(([, settled]) => settled))
  }
}
