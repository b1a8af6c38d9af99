/**
 * Which node ids more than one node has, counted over instances that come and go: a change costs what it changes, however many
 * instances there are. Of two nodes with one id a real importer forgets the first (spec/peering-wire.md 8.3).
 */
import type { CheckServiceNode } from '../../mesh/service.ts'

type Instances = readonly CheckServiceNode[]

export class SharedNodeIds {
  /** Instances by id and name of their node; an id holds no space. */
  readonly #instances = new Map<string, number>()
  /** Nodes by their id. */
  readonly #nodes = new Map<string, number>()
  readonly #shared = new Set<string>()

  get ids(): ReadonlySet<string> {
    return this.#shared
  }

  /** These stand where those stood. Answers whether an id has become shared, or is no longer. */
  replace(before: Instances, after: Instances): boolean {
    let start = 0
    while (start < before.length && before[start] === after[start]) start += 1
    let end = 0
    while (end < Math.min(before.length, after.length) - start && before.at(-1 - end) === after.at(-1 - end)) end += 1
    let flipped = false
    // First what comes: a node whose instance was only made anew is never gone.
    for (const { node } of after.slice(start, after.length - end)) if (this.#add(node)) flipped = true
    for (const { node } of before.slice(start, before.length - end)) if (this.#remove(node)) flipped = true
    return flipped
  }

  #add({ id, node }: CheckServiceNode['node']): boolean {
    if (id === '') return false
    const key = `${id} ${node}`
    const instances = this.#instances.get(key) ?? 0
    this.#instances.set(key, instances + 1)
    if (instances > 0) return false
    const nodes = this.#nodes.get(id) ?? 0
    this.#nodes.set(id, nodes + 1)
    if (nodes !== 1) return false
    this.#shared.add(id)
    return true
  }

  #remove({ id, node }: CheckServiceNode['node']): boolean {
    if (id === '') return false
    const key = `${id} ${node}`
    const instances = this.#instances.get(key)! - 1
    if (instances > 0) {
      this.#instances.set(key, instances)
      return false
    }
    this.#instances.delete(key)
    const nodes = this.#nodes.get(id)! - 1
    if (nodes > 0) this.#nodes.set(id, nodes)
    else this.#nodes.delete(id)
    if (nodes !== 1) return false
    this.#shared.delete(id)
    return true
  }
}
