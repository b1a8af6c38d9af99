/** Every query parameter of the API, by name: rows of the route table say which they take, and the OpenAPI document what each means. */
import type { JsonSchema } from '../../lib/wire-schema.ts'

interface Parameter {
  what: string
  schema: JsonSchema
}

const text: JsonSchema = { type: 'string' }
/** Its presence counts. */
const flag: JsonSchema = { type: 'string', enum: ['', 'true'] }
const index: JsonSchema = { type: 'integer', minimum: 0 }
const bool: JsonSchema = { type: 'boolean' }
const texts: JsonSchema = { type: 'array', items: { type: 'string' } }

export const parameters = {
  acquire: { what: 'locks the key for this session', schema: text },
  address: { what: "a server's address", schema: text },
  by: { what: 'which end of an intention the names are', schema: { type: 'string', enum: ['source', 'destination'] } },
  cached: { what: 'the agent cache may answer', schema: flag },
  cas: { what: 'only if this is the stored index; 0 stands for nothing stored', schema: index },
  'compile-dc': { what: 'as seen from this datacenter', schema: text },
  connect: { what: 'mesh endpoints instead of instances', schema: bool },
  consistent: { what: 'verify leadership first', schema: flag },
  dc: { what: 'a datacenter: this one', schema: text },
  destination: { what: "an intention's destination", schema: text },
  enable: { what: 'on or off', schema: bool },
  filter: { what: 'a go-bexpr expression over the list', schema: text },
  flags: { what: "64 bits that are the client's own", schema: index },
  format: { what: 'another form of the answer', schema: text },
  hash: { what: 'the ContentHash that is known: waits for another', schema: text },
  header: { what: 'NAME:VALUE, a header of the request that is asked about', schema: texts },
  id: { what: "a server's id", schema: text },
  index: { what: 'the X-Consul-Index that is known: waits for a greater one', schema: index },
  keys: { what: 'names only', schema: flag },
  kind: { what: 'the kind of the service', schema: text },
  leader: { what: 'the leader answers, whatever the default', schema: flag },
  limit: { what: 'at most so many', schema: index },
  logjson: { what: 'lines as they are', schema: flag },
  loglevel: { what: 'at least so severe', schema: text },
  max_stale: { what: 'how stale an answer may be', schema: text },
  method: { what: 'of the request that is asked about', schema: text },
  name: { what: 'a name', schema: texts },
  near: { what: 'sort by distance from this node; _agent for the own', schema: text },
  node: { what: 'a filter of nodes', schema: text },
  'node-meta': { what: 'key:value that the node must have', schema: texts },
  note: { what: "the check's output", schema: text },
  passing: { what: 'only instances of which every check passes', schema: text },
  peer: { what: 'services that this peer exports to us', schema: text },
  path: { what: 'of the request that is asked about, with its query', schema: text },
  pem: { what: 'the certificates alone', schema: bool },
  pretty: { what: 'indented', schema: flag },
  raw: { what: 'the bytes alone', schema: flag },
  reason: { what: 'why', schema: text },
  recurse: { what: 'everything below the prefix', schema: flag },
  release: { what: 'unlocks the key of this session', schema: text },
  'replace-existing-checks': { what: 'checks that the request does not name go', schema: flag },
  segment: { what: 'a network segment: none is known', schema: text },
  separator: { what: 'names only up to this text', schema: text },
  service: { what: 'a filter of services', schema: text },
  source: { what: "an intention's source", schema: text },
  'source-type': { what: 'consul', schema: text },
  stale: { what: 'any server may answer', schema: flag },
  tag: { what: 'a tag that must be there', schema: texts },
  wait: { what: 'how long to wait at most, as 10s', schema: { type: 'string', pattern: '^[0-9]{1,4}(ms|s)$' } },
  wan: { what: 'members of the WAN', schema: flag },
} as const satisfies Record<string, Parameter>

export type ParameterName = keyof typeof parameters
