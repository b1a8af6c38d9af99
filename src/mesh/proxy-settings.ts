/** Settings of a proxy that registrations and config entries share. */
import * as z from 'zod'

export const MeshGatewayMode = z.object({ mode: z.string().optional() })

export const TransparentProxy = z.object({ outboundListenerPort: z.number().int().optional(), dialedDirectly: z.boolean().optional() })

export const AccessLogs = z.object({
  enabled: z.boolean().optional(),
  disableListenerLogs: z.boolean().optional(),
  type: z.string().optional(),
  path: z.string().optional(),
  jsonFormat: z.string().optional(),
  textFormat: z.string().optional(),
})

export const ExposePath = z.object({
  listenerPort: z.number().int().default(0),
  path: z.string().default(''),
  localPathPort: z.number().int().default(0),
  /** http unless told. */
  protocol: z.string().optional(),
  /** Only printed by Consul, but its clients send it back. */
  parsedFromCheck: z.boolean().optional(),
})
export type ExposePath = z.infer<typeof ExposePath>
export const Expose = z.object({ checks: z.boolean().optional(), paths: z.array(ExposePath).optional() })
