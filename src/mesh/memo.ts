/**
 * Keeps what one compilation built for the next one: a part is built again only when its version differs, and is otherwise the very
 * same object. Parts that the newer compilation does not ask for are forgotten with the older memo.
 */
export class Memo {
  readonly #parts = new Map<string, { version: string; part: unknown }>()
  #before: ReadonlyMap<string, { version: string; part: unknown }> | undefined

  constructor(before?: Memo) {
    // Only the parts: holding the older memo itself would chain every plan that ever was.
    this.#before = before === undefined ? undefined : before.#parts
  }

  /** The part under this key in this version. `build` may look at the part that it replaces. A key has one type, always. */
  part<T>(key: string, version: string, build: (before: T | undefined) => T): T {
    const current = this.#parts.get(key)
    if (current?.version === version) return current.part as T
    const before = this.#before?.get(key)
    const part = before?.version === version ? (before.part as T) : build(before?.part as T | undefined)
    this.#parts.set(key, { version, part })
    return part
  }

  /** The compilation is over: what was not asked for again is let go. */
  seal(): void {
    this.#before = undefined
  }
}
