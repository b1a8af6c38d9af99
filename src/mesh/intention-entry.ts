/** Config entries of kind service-intentions: who may call a service, and what (spec/data-plane.md 7). */
import * as z from 'zod'
import { HeaderMatch, indexes } from './entry-members.ts'

export const JwtRequirement = z.object({
  providers: z
    .array(
      z.object({
        name: z.string().default(''),
        verifyClaims: z.array(z.object({ path: z.array(z.string()), value: z.string() })).optional(),
      }),
    )
    .default([]),
})
export type JwtRequirement = z.infer<typeof JwtRequirement>

export const Permission = z.object({
  action: z.string().default(''),
  http: z
    .object({
      pathExact: z.string().optional(),
      pathPrefix: z.string().optional(),
      pathRegex: z.string().optional(),
      header: z.array(HeaderMatch).optional(),
      methods: z.array(z.string()).optional(),
    })
    .optional(),
  jwt: JwtRequirement.optional(),
})
export type Permission = z.infer<typeof Permission>

export const IntentionSource = z.object({
  name: z.string().default(''),
  /** Local name of the peer whose service this is; absent for our own cluster. */
  peer: z.string().optional(),
  action: z.string().optional(),
  permissions: z.array(Permission).optional(),
  precedence: z.number().int().default(0),
  type: z.string().default('consul'),
  description: z.string().optional(),
  /** Set by the API's POST, which gives intentions ids. */
  legacyId: z.string().optional(),
  legacyCreateTime: z.string().optional(),
  legacyUpdateTime: z.string().optional(),
  /** Read only so that it can be refused by name. */
  samenessGroup: z.string().optional(),
})
export type IntentionSource = z.infer<typeof IntentionSource>

export const ServiceIntentions = z.object({
  kind: z.literal('service-intentions'),
  name: z.string().default(''),
  sources: z.array(IntentionSource).default([]),
  jwt: JwtRequirement.optional(),
  ...indexes,
})
export type ServiceIntentions = z.infer<typeof ServiceIntentions>
