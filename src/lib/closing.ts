/** What was opened, to be closed in the opposite order; once, whoever asks. */
export class Closing {
  readonly #closers: (() => Promise<void> | void)[] = []

  /** Remembers how to close a part, and gives the part back. */
  keep<T>(part: T, close: (part: T) => Promise<void> | void): T {
    this.#closers.push(() => close(part))
    return part
  }

  async close(): Promise<void> {
    for (const each of this.#closers.splice(0).reverse()) await each()
  }
}
