/**
 * Where everything lies in the store: the one place that knows the key layout. Values are UTF-8 JSON of the mesh nouns without
 * their indexes (those are the entry's revisions); path parts are percent-encoded, so that a name cannot forge a key.
 */

/** A lone surrogate, which no encoding can carry, becomes the replacement character instead of an exception. */
const part = (text: string): string => encodeURIComponent(text.replace(/\p{Surrogate}/gu, '\ufffd'))

export const keys = {
  /** -> Node. */
  node: (node: string) => `node/${part(node.toLowerCase())}`,
  /** -> NodeService. */
  service: (node: string, serviceId: string) => `service/${part(node.toLowerCase())}/${part(serviceId)}`,
  /** -> HealthCheck. */
  check: (node: string, checkId: string) => `check/${part(node.toLowerCase())}/${part(checkId)}`,
  /** -> ConfigEntry; intentions are here too. */
  configEntry: (kind: string, name: string) => `config/${kind}/${part(name.toLowerCase())}`,
  /** -> KvRecord. The key is the user's own, as it is. */
  kv: (key: string) => `kv/${key}`,
  /** -> Session. */
  session: (id: string) => `session/${part(id)}`,
  /** -> PreparedQuery. */
  query: (id: string) => `query/${part(id)}`,
  /** -> { id }: makes a name belong to one prepared query only. Templates and plain queries have names of their own. */
  queryName: (name: string, template: boolean) => `query-name/${template ? 'template' : 'plain'}/${part(name.toLowerCase())}`,
  /** Both keys of a prepared query; one without a name has only its own. */
  ofQuery: (query: { id: string; name: string; template: { type: string } }): string[] => [
    keys.query(query.id),
    ...(query.name === '' ? [] : [keys.queryName(query.name, query.template.type !== '')]),
  ],
  /** -> Peering (stored state only; never ACTIVE or FAILING). */
  peering: (name: string) => `peering/${name}`,
  /** -> the peering's secrets, see agent/peering. Never read by a door. */
  peeringSecrets: (peeringId: string) => `peering-secret/${part(peeringId)}`,
  /** -> TrustBundle. */
  trustBundle: (peer: string) => `trust-bundle/${peer}`,
  /** -> ImportedService: names the generation that counts; written last, so a table flips at once. */
  imported: (peer: string, service: string) => `imported/${peer}/${part(service.toLowerCase())}`,
  /** -> CheckServiceNode[], a part of one generation of an imported service. */
  importedChunk: (peer: string, service: string, generation: string, chunk: string) =>
    `imported-data/${peer}/${part(service.toLowerCase())}/${generation}/${chunk}`,
  /** Every generation of one service. */
  importedChunks: (peer: string, service: string) => `imported-data/${peer}/${part(service.toLowerCase())}/`,
  importedGeneration: (peer: string, service: string, generation: string) =>
    `imported-data/${peer}/${part(service.toLowerCase())}/${generation}/`,
  /** Everything imported from one peer. */
  importedPrefixes: (peer: string) => [`imported/${peer}/`, `imported-data/${peer}/`, `virtual-ip/${peer}/`],
  /** -> { address }. peer is empty for our own services. */
  virtualIp: (peer: string, service: string) => `virtual-ip/${peer}/${part(service.toLowerCase())}`,
  /** -> { peer, service }: makes an address belong to one service only. */
  virtualAddress: (address: string) => `virtual-address/${address}`,
  /** -> CaConfiguration. */
  caConfiguration: () => 'ca/configuration',
  /** -> CaRoot (public part). */
  caRoot: (id: string) => `ca/root/${part(id)}`,
  /** -> the CA's ledger: the last serial number and until when each root is needed. */
  caLedger: () => 'ca/ledger',
  /** -> the CA's private key. Never read by a door. */
  caKey: (id: string) => `ca-key/${part(id)}`,
  /** -> what this agent was asked to run: ServiceDefinition and CheckDefinition with their state. */
  localService: (node: string, serviceId: string) => `local/${part(node)}/service/${part(serviceId)}`,
  localCheck: (node: string, checkId: string) => `local/${part(node)}/check/${part(checkId)}`,
  localPrefix: (node: string) => `local/${part(node)}/`,
} as const
