/**
 * Defects that a test puts between two clusters, each of which some seed must find: what the simulation is worth. They are made of
 * what passes on the wire, as if the receiving cluster had the mistake.
 */
import { ExportedService, ReplicationMessage } from '../../../../src/wire/gen/peerstream.ts'
import { typeUrls } from '../../../../src/wire/peer-stream.ts'
import type { Passing } from './network.ts'

export interface Defect {
  name: string
  /** What the first violation says. */
  found: RegExp
  /** Makes it for one run. */
  make: () => Tamper
}

type Tamper = (passing: Passing) => ReplicationMessage | undefined

type Response = Extract<NonNullable<ReplicationMessage['Payload']>, { $case: 'response' }>['value']

/** Changes what some resource says; undefined swallows it. */
function ofResponses(change: (response: Response, passing: Passing) => Response | undefined): Tamper {
  return passing => {
    const payload = passing.message.Payload
    if (payload?.$case !== 'response') return passing.message
    const value = change(payload.value, passing)
    return value && { Payload: { $case: 'response', value } }
  }
}

const isService = ({ ResourceURL: url }: Response): boolean => url === typeUrls.service

export const defects: readonly Defect[] = [
  {
    name: 'a list that comes later sweeps nothing',
    found: /is exported as nothing and imported as|ACTIVE, and .* was last so|is listed/,
    make: () => ofResponses(response => (response.ResourceURL === typeUrls.list && response.Nonce !== '00000001' ? undefined : response)),
  },
  {
    name: 'a delete is ignored',
    found: /is exported as nothing and imported as|ACTIVE, and .* was last so/,
    make: () => ofResponses(response => (isService(response) && response.Resource?.value.length === 0 ? undefined : response)),
  },
  {
    name: 'an answer names another nonce',
    found: /answers nonce/,
    make: () => ofResponses(response => (isService(response) ? { ...response, Nonce: '0000ffff' } : response)),
  },
  {
    name: 'a set is taken in part',
    // A part may be what was once the whole.
    found: /was never exported so|is exported as/,
    make: () =>
      ofResponses(response => {
        if (!isService(response)) return response
        const { Nodes: nodes } = ExportedService.decode(response.Resource!.value)
        if (nodes.length < 2) return response
        const value = Buffer.from(ExportedService.encode({ Nodes: nodes.slice(1) }).finish())
        return { ...response, Resource: { ...response.Resource!, value } }
      }),
  },
  {
    name: 'heartbeats go on while the data is frozen',
    found: /ACTIVE, and .* was last so|is exported as/,
    make: () => ofResponses(response => (Number.parseInt(response.Nonce, 16) > 8 ? undefined : response)),
  },
  {
    name: 'trust bundles are not renewed',
    found: /roots are not those of the exporter/,
    make: () => {
      const seen = new WeakSet<object>()
      return ofResponses((response, { stream }) => {
        if (response.ResourceURL !== typeUrls.bundle) return response
        if (seen.has(stream)) return undefined
        seen.add(stream)
        return response
      })
    },
  },
]
