/**
 * The exporting half of freshness: when a digest of what the other side was sent may leave. Only where the other side asks; only right
 * after what may be exported was looked up anew, so that an exporter whose tables stand still proves nothing; and
 * only when all of it has been handed over.
 */
import type { Now } from './session.ts'

export interface Proof {
  /** The latest question of the other side, and the one that the look under way answers. */
  asked: number
  answering: number
  /** The next look at what may be exported. */
  nextMs: number
  /** A look is under way; while it does not end nothing is proven. */
  looking: boolean
  /** The last look found more than there was room for, so that no digest left. */
  owed: boolean
  lastLookMs: number
  lastResendMs: number
}

/** A digest that had to wait for room, and one after something was sent again, come soon; no two come sooner than this. */
const soonMs = 1000
/** Requests to send again are heard this often: each costs a part of everything. */
const resendSpacingMs = 5000

export function newProof(): Proof {
  return {
    asked: 0,
    answering: 0,
    nextMs: Infinity,
    looking: false,
    owed: false,
    lastLookMs: -Infinity,
    lastResendMs: -Infinity,
  }
}

/** A question came; those before it are answered with it. */
export function ask(proof: Proof, question: number, now: Now): void {
  if (question <= proof.asked) return
  proof.asked = question
  proof.nextMs = Math.min(proof.nextMs, Math.max(now.monoMs, proof.lastLookMs + soonMs))
}

/** Starts a look when one is due. */
export function beginLook(proof: Proof, now: Now): boolean {
  if (proof.looking || now.monoMs < proof.nextMs) return false
  proof.looking = true
  proof.answering = proof.asked
  proof.lastLookMs = now.monoMs
  proof.nextMs = Infinity
  return true
}

/** When a tick is needed. */
export function nextLookMs({ looking, nextMs }: Proof): number {
  return looking ? Infinity : nextMs
}

/** Everything is handed over that was not before, or something is sent again. */
export function soon(proof: Proof, now: Now): void {
  proof.nextMs = Math.min(proof.nextMs, now.monoMs + soonMs)
}

export function mayResend(proof: Proof, now: Now): boolean {
  if (now.monoMs < proof.lastResendMs + resendSpacingMs) return false
  proof.lastResendMs = now.monoMs
  return true
}
