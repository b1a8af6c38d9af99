/**
 * The judge of the requests of one inbound connection, for both codecs. What is judged is the head that will be forwarded. The TLS peer
 * and, where that is our own mesh gateway, the caller it names in XFCC are both judged; from everybody else XFCC is dropped. The app then
 * sees one element for its TLS peer, written here, after what our gateway sent.
 */
import { toldOf, type Decision, type HttpFacts, type Principal } from '../mesh/authorize.ts'
import type { SidecarBinding } from './binding.ts'
import type { Refused } from './http1/door.ts'
import type { DecisionLabel } from './metrics.ts'
import type { Permit } from './permit.ts'
import type { Carried, TokenHead } from '../wire/tokens.ts'
import { xfccElement, xfccHeader, xfccOf } from './xfcc.ts'

export interface InboundJudgeOptions {
  permit: Permit
  binding: () => SidecarBinding
  /** Counts a decision and names it. */
  decided: (decision: Decision) => DecisionLabel
}

/** A head that can still be edited. */
export interface JudgedHead extends HttpFacts, TokenHead {
  remove(name: string): void
  append(name: string, value: string): void
}

/** What a request was judged by, so that what it opened can be judged again. */
export interface JudgedRequest {
  head: HttpFacts
  xfcc: string | undefined
  /** Of the caller, where an intention may ask for them. */
  carried: Carried | undefined
  /** `none` for what was no request. */
  decision: DecisionLabel | 'none'
}

/** 19 bytes, as Envoy says it (data-plane.md 7.5). */
const denied: Refused = { ok: false, status: 403, body: 'RBAC: access denied', reason: 'denied' }
const malformed: Refused = { ok: false, status: 400, body: 'malformed request path', reason: 'malformed-path' }
/** Names the rule to a caller of our own cluster, who may ask its operator about it. */
const denyHeader = 'x-isthmus-deny'
const refusals = new WeakMap<Decision, Refused>()

function refusalOf(decision: Decision): Refused {
  let refusal = refusals.get(decision)
  if (refusal === undefined) {
    const told = toldOf(decision)
    refusals.set(decision, (refusal = told === undefined ? denied : { ...denied, headers: [denyHeader, told] }))
  }
  return refusal
}

/** The decision on a caller who is nobody here. */
export const nobody: Decision = { allow: false, reason: 'identity', rule: '' }

export class InboundJudge {
  readonly #options: InboundJudgeOptions
  #self = ''
  #element = ''

  constructor(options: InboundJudgeOptions) {
    this.#options = options
  }

  /** Judges `head`, which goes on as it is afterwards, and notes in `request` by what. Answers why not, if not. */
  open(head: JudgedHead, request: JudgedRequest): Refused | undefined {
    const { permit, decided, binding } = this.#options
    const { plan, identity, tokens } = binding()
    // The certificates were checked when the connection began; an hour later they may have ended.
    const peer = Date.now() < permit.validUntilMs ? plan.authorizer.identify(permit.uri) : undefined
    const carried = peer !== undefined && peer.peer === '' && peer.identity.kind === 'mesh-gateway'
    request.xfcc = carried ? xfccOf(head.headers) : undefined
    head.remove(xfccHeader)
    request.head = head
    request.carried = tokens?.read(head, () => binding().tokens)
    const decision = this.#judge(peer, request)
    request.decision = decided(decision)
    if (decision.malformed === true) return malformed
    if (!decision.allow) return refusalOf(decision)
    if (request.carried !== undefined) tokens!.pass(request.carried, head)
    if (this.#self !== identity.uri) {
      this.#self = identity.uri
      this.#element = xfccElement(identity.uri, permit)
    }
    head.append(xfccHeader, request.xfcc === undefined ? this.#element : `${request.xfcc},${this.#element}`)
    return undefined
  }

  /** When what was judged by is to be judged again, without a plan to say so (wall clock). */
  allowedUntilMs({ carried }: JudgedRequest): number {
    return carried === undefined ? Infinity : carried.endsMs
  }

  stillAllows(request: JudgedRequest): boolean {
    const { permit, binding } = this.#options
    return this.#judge(binding().plan.authorizer.identify(permit.uri), request).allow
  }

  #judge(peer: Principal | undefined, request: JudgedRequest): Decision {
    const { authorizer } = this.#options.binding().plan
    return peer ? authorizer.authorizeForwarded(peer, request.xfcc, request.head, request.carried) : nobody
  }
}
