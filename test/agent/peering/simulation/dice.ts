/** All the chance in a simulation, from one number: the same seed throws the same dice. */
import { seeded } from '../../../support/seeded.ts'

export class Dice {
  /** 0 or more, less than 1. */
  readonly next: () => number

  constructor(seed: number) {
    // Neighbouring seeds must not begin alike.
    this.next = seeded(Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b))
    for (let i = 0; i < 4; i += 1) this.next()
  }

  /** A whole number from `low` to `high`, both included. */
  whole(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1))
  }

  between(low: number, high: number): number {
    return low + this.next() * (high - low)
  }

  chance(probability: number): boolean {
    return this.next() < probability
  }

  pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.next() * from.length)]!
  }

  /** Of rows with a weight. */
  weighted<T extends { weight: number }>(rows: readonly T[]): T {
    let left = this.next() * rows.reduce((sum, row) => sum + row.weight, 0)
    for (const row of rows) {
      left -= row.weight
      if (left < 0) return row
    }
    return rows.at(-1)!
  }
}
