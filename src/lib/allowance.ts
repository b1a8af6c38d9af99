/** Events that are fine now and then: `burst` of them at once, `perSecond` for ever. */
export class Allowance {
  private readonly burst: number
  private readonly perSecond: number
  private left: number
  private atMs = 0

  constructor(burst: number, perSecond: number) {
    this.burst = burst
    this.perSecond = perSecond
    this.left = burst
  }

  /** Takes one; false when there are none left. */
  take(nowMs: number): boolean {
    if (this.left < this.burst) this.left = Math.min(this.burst, this.left + ((nowMs - this.atMs) / 1000) * this.perSecond)
    this.atMs = nowMs
    if (this.left < 1) return false
    this.left -= 1
    return true
  }

  /** One more, because something of use was done. */
  earn(): void {
    if (this.left < this.burst) this.left += 1
  }
}
