/** How long the two ways to end a proxy take (running-proxy.ts). Apart, so that a supervisor, which is no proxy, loads nothing of one. */

export const endings = {
  drainMs: 10_000,
  /** New connections are accepted for this share of the draining, at most so long, or until nothing has been open for a moment. */
  acceptShare: 1 / 3,
  acceptMs: 5000,
  quietMs: 250,
  /** Longer than any pooled stream grows old, so that those through a gateway, which cannot tell them to go, end by themselves. */
  handOverMs: 600_000,
  lookMs: 25,
} as const
