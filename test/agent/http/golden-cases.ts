/**
 * How the recordings are replayed: the order of the areas whose files are not numbered, with the requests that their author made
 * without recording them; and the one table of what differs in an answer from Consul's, each with its reason.
 */
import { recording, recordings } from '../../support/golden-http.ts'

/** A recording's name, with its area where that is another, or something that is not compared: see `Replay.aside`; `STOP` and `START` an agent. */
export type Step = string | [method: string, path: string, body?: unknown]

const registrationErrors = [
  'register-no-name',
  'register-any-address',
  'register-bad-check',
  'register-bad-meta',
  'register-bad-weights',
  'register-dup-upstream-port',
  'register-native-and-sidecar',
  'register-proxy-no-dest',
  'register-proxy-no-port',
  'register-sidecar-with-id',
  'register-upstream-no-port',
  'register-upstream-peer-and-dc',
  'register-upstream-wildcard',
]

export const orders: Record<string, Step[]> = {
  agent: [
    'host',
    'metrics',
    'metrics-prometheus',
    'self',
    'version',
    'members',
    'members-wan',
    'members-segment-all',
    'members-segment-unknown',
    'members-wan-segment',
    'services-empty',
    'checks-empty',
    'register-service',
    'register-service-sidecar',
    'services',
    'services-filter',
    'services-bad-filter',
    'service-one',
    'service-sidecar',
    'service-unknown',
    'service-hash-mismatch',
    'service-hash-block-timeout',
    'checks',
    'health-service-id',
    'health-service-id-text',
    'health-service-id-accept',
    'health-service-id-unknown',
    'health-service-id-unknown-text',
    'health-service-id-missing',
    'health-service-name',
    'health-service-name-unknown',
    'health-service-name-unknown-text',
    ...registrationErrors,
    'check-warn',
    'health-service-id-warning',
    'health-service-id-warning-text',
    'check-fail',
    'health-service-id-critical',
    'check-pass',
    'check-pass-unknown',
    'check-register-no-name',
    'check-register-no-type',
    'check-register-no-interval',
    'check-register-bad-duration',
    'check-register-bad-status',
    'check-register-unknown-service',
    'check-register-tcp',
    'check-deregister',
    'check-deregister-unknown',
    ['PUT', '/v1/agent/check/register', { ID: 'tcp2', Name: 'tcp', TCP: '127.0.0.1:1', Interval: '10m' }],
    'check-pass-non-ttl',
    ['PUT', '/v1/agent/check/deregister/tcp2'],
    'service-maint-noid',
    'service-maint-no-enable',
    'service-maint-bad-enable',
    'service-maint-unknown',
    'check-register-node-ttl',
    // A change of the output alone would be held back for five minutes.
    ['PUT', '/v1/agent/check/warn/web-ttl'],
    'check-update',
    'service-maint-on',
    'health-maint',
    'service-maint-off',
    'node-maint-on',
    'node-maint-checks',
    'node-maint-checks2',
    'node-maint-off',
    'register-replace-existing-checks',
    'checks-auto-id',
    'service-defaults-check-status',
    'checks-auto-id2',
    ['PUT', '/v1/agent/service/deregister/rep'],
    'deregister-unknown',
    'register-bad-kind',
    'register-check-and-checks',
    ['PUT', '/v1/agent/service/deregister/x'],
    'register-socket-and-port',
    'check-update-bad-status',
    'token-acl-disabled',
    'force-leave-unknown',
    'join-bad',
    'monitor-bad-level',
    'reload',
    'leave',
    'authorize',
    'authorize-bad-uri',
    'authorize-no-target',
    'ca-roots',
    'ca-leaf',
    'ca-leaf-again',
  ],
  catalog: [
    'datacenters',
    'nodes',
    'nodes-filter-meta',
    'nodes-near',
    'nodes-node-meta',
    'services',
    'services-filter',
    'services-node-meta',
    'service-tag',
    'service-two-tags',
    'service-tag-nomatch',
    'service-none',
    'service-missing-name',
    'connect-api',
    'gateway-services-missing',
    'gateway-services-none',
    'node-missing',
    'node-unknown',
    'node-services-unknown',
    'service-merge-central',
    'register-no-node',
    'register-no-address',
    'register-bad-node-id',
    'register-service-no-name',
    'register-service-any-address',
    'register-peername',
    'register-wrong-dc',
    'register-unknown-field',
    'register-namespace-field',
    'register-node',
    'register-check-for-missing-service',
    'register-node-service-check',
    'register-checks-plural',
    'register-skip-node-update',
    'register-proxy',
    'node',
    'node-by-id',
    'node-by-id-prefix',
    'node-services',
    'node-services-filter',
    'service',
    'service-filter',
    'service-filter-meta',
    'service-peer-param',
    'connect',
    'register-bad-node-name',
    'deregister-nonode',
    'deregister-unknown',
    'deregister-check',
    'deregister-service',
    'deregister-node',
  ],
}

/** The areas, in the order in which they were recorded. */
export const areas = [
  'general',
  'agent',
  'catalog',
  'health',
  'peering',
  'config',
  'intentions',
  'connect-ca',
  'kv',
  'session',
  'txn',
  'event',
  'coordinate',
  'status',
  'operator',
  'snapshot',
  'internal',
  'query',
  'acl',
  'variants',
  'peering-end',
  'discovery-chain',
] as const

/** The recordings of an area that are replayed, in the order of their names. */
export function replayed(area: string): string[] {
  return recordings(area).filter(name => !isAbsent(`${area}/${name}`))
}

/** Recordings in the order of their names, each with the requests that go before it. */
function withAsides(area: string, before: Record<string, Step[]>): Step[] {
  return replayed(area).flatMap((name): Step[] => [...(before[name] ?? []), name])
}

/** Recordings in which a list has the order of one of Go's maps, which is another in every run; ours is stable. */
export const unordered = new Set(['agent/health-maint', 'catalog/services-node-meta'])

export interface Difference {
  reason: string
  /** Where the answers differ: `status`, `headers.content-type`, `body.Status.Conditions`, `body.0.Meta`. All else is equal. */
  at: readonly string[]
}

function because(reason: string, area: string, names: string, at: string): [string, Difference][] {
  return names.split(' ').map(name => [`${area}/${name}`, { reason, at: at.split(' ') }])
}

/** Recordings that are not replayed: those of the agent that had access control lists on. */
function isAbsent(name: string): boolean {
  return name.startsWith('acl/') && recording(name).agent === 'gamma'
}

const answer = 'status headers.content-type body'
const tells = 'of the configuration only what clients read is shown; there is no Raft, no Serf and no Go'
const ofSelf = 'body.DebugConfig body.Stats.build body.Stats.raft body.Stats.runtime body.Stats.serf_lan body.Stats.serf_wan'
const forgets = 'a bug of Consul: who dials a peering loses the meta it was given'

/** area/name -> where our answer differs, and why. */
export const differences: ReadonlyMap<string, Difference> = new Map([
  ...because("the text names Go's types; ours names the member", 'general', 'wrong-type', 'body'),
  ...because('what is told of the machine is what Node knows of it', 'agent', 'host', 'body.CPU body.Disk body.Host body.Memory'),
  ...because('metrics are our own', 'agent', 'metrics', 'body.Counters body.Gauges body.Samples'),
  ...because('metrics are our own', 'agent', 'metrics-prometheus', 'headers.content-type body'),
  ...because(tells, 'agent', 'self', ofSelf),
  ...because(tells, 'general', 'token-unknown-acl-disabled', ofSelf),
  ...because('there is no gossip: clusters are joined by a peering', 'agent', 'join-bad', 'body'),
  ...because('a bug of Consul: it empties the node', 'catalog', 'service-merge-central', 'body.0'),
  ...because('?peer= is honoured on every endpoint of catalog and health', 'catalog', 'service-peer-param', 'body'),
  ...because('?peer= is honoured on every endpoint of catalog and health', 'peering', '53-catalog-service-peer-ignored', 'body'),
  ...because('a bug of Consul: it takes intentions without an id for one and the same', 'config', '75c-ui-gateway-intentions', 'body'),
  ...because(
    'there is no API gateway that a route could be bound to',
    'config',
    'a3-api-gateway-get a5-http-route-get',
    'body.Status.Conditions',
  ),
  ...because('there is no API gateway that a route could be bound to', 'config', 'a8-bound-get', answer),
  ...because('no proxy is transparent: virtual addresses are given out, not taken', 'internal', 'service-virtual-ip', answer),
  ...because('no proxy is transparent: virtual addresses are given out, not taken', 'internal', 'service-virtual-ip-bad', 'body'),
  ...because(forgets, 'peering', '41-exporter-read 71-exporter-read-wildcard', 'body.Meta'),
  ...because(forgets, 'peering', '93-dialer-after-remote-delete 97-dialer-after-reestablish', 'body.Meta'),
  ...because(
    'a peering keeps its meta and its CAs until it is gone',
    'peering',
    '91-read-after-delete-acceptor',
    'body.Meta body.PeerCAPems',
  ),
  ...because(
    'a peering keeps its meta and its CAs until it is gone',
    'peering',
    '92-list-after-delete-acceptor',
    'body.0.Meta body.0.PeerCAPems',
  ),
  ...because(
    'a peering keeps its CAs until it is gone, and its stream ends before',
    'peering',
    '99c-read-after',
    'body.PeerCAPems body.StreamStatus',
  ),
])

const early = [
  '00-create',
  '01-create-nobody',
  '02-info',
  '03-list',
  '04-node',
  '05-renew',
  '06-renew-unknown',
  '07-info-unknown',
  '08-info-badid',
]
orders['health'] = [
  ...replayed('health').filter(name => name !== 'ingress'),
  // What the author had tidied up by the time of the other areas.
  ['PUT', '/v1/agent/check/deregister/nodettl'],
  ['PUT', '/v1/agent/service/deregister/x'],
  ['PUT', '/v1/catalog/deregister', { Node: 'q\u0000z' }],
]
orders['kv'] = withAsides('kv', {
  '32-acquire': early.map(name => `session/${name}`),
  '40-lock-delay': ['session/09-destroy'],
  '41-after-lock-delay': [['WAIT', '1100']],
  '61-block-timeout': [['PUT', '/v1/kv/blk', 'x']],
})
orders['session'] = replayed('session').filter(name => !early.includes(name) && name !== '09-destroy')
const uiPages = replayed('config').filter(name => /^75[b-f]-/.test(name))
const configInOrder = withAsides('config', {
  // The author had run the area once before.
  '00-list-all-empty-kind': [
    ['DELETE', '/v1/config/service-resolver/billing'],
    ['PUT', '/v1/config', recording('config/14-put-snake').request.body],
  ],
  '24b-put-cas-wrong-identical-content': [['PUT', '/v1/config', recording('config/24b-put-cas-wrong-identical-content').request.body]],
  '25-delete-cas-wrong': [['DELETE', '/v1/config/service-defaults/castest']],
  // The author had taken away by then what hangs on another datacenter.
  '99-exported-unknown-peer-ok': ['router', 'splitter', 'resolver'].map((kind): Step => ['DELETE', `/v1/config/service-${kind}/web`]),
  '70-ingress': [
    [
      'PUT',
      '/v1/agent/service/register',
      { Name: 'ingress', Kind: 'ingress-gateway', Address: '10.0.0.7', Port: 8888, Proxy: { Config: { protocol: 'http' } } },
    ],
  ],
  // Recorded when there were such a gateway and these intentions.
  '82-intentions-nosources': ['health/ingress', ...uiPages.map(name => `config/${name}`)],
  'b3-list-exported': [['PUT', '/v1/config', recording('config/98d-exported-emptyconsumer').request.body]],
})
orders['config'] = configInOrder.filter(step => typeof step !== 'string' || !uiPages.includes(step))
orders['discovery-chain'] = [
  // What the areas before it had left by then.
  ['PUT', '/v1/config', { Kind: 'service-resolver', Name: 'web', ConnectTimeout: '3s' }],
  ...recordings('discovery-chain'),
]
orders['intentions'] = withAsides('intentions', {
  '00-list-empty': ['web', 'web2', 'tcpsvc', '*'].map((name): Step => ['DELETE', `/v1/config/service-intentions/${name}`]),
  '09-exact-get-peer': [
    [
      'PUT',
      '/v1/config',
      {
        Kind: 'service-intentions',
        Name: 'web',
        Sources: [
          { Name: 'api', Action: 'allow' },
          { Name: 'billing', Peer: 'beta', Action: 'allow', Description: 'peer' },
          { Name: '*', Action: 'deny' },
        ],
      },
    ],
  ],
})

const registered = (Name: string, more: object = {}): Step[] => [['PUT', 'beta:/v1/agent/service/register', { Name, ...more }]]
const gateway = { Address: '10.20.0.99', Port: 8443 }
const beforePeering: Record<string, Step[]> = {
  '19-establish-old-token': [
    ['DELETE', '/v1/peering/partdef'],
    ['UNTIL', '/v1/peering/partdef', 'Peering not found'],
  ],
  '24-read-dialer-active': [
    ['UNTIL', 'beta:/v1/peering/alpha', '"ACTIVE"'],
    ['UNTIL', '/v1/peering/beta', '"ACTIVE"'],
    ['UNTIL', '/v1/peering/beta', '"PeerCAPems"'],
  ],
  '40-exported-services-put': [
    ...registered('billing', {
      ID: 'billing-1',
      Tags: ['v2'],
      Address: '10.20.0.5',
      Port: 7000,
      Meta: { team: 'pay' },
      Connect: { SidecarService: { Port: 20_001, Checks: [{ AliasService: 'billing-1' }] } },
    }),
    ...registered('billing', { ID: 'billing-2', Address: '10.20.0.6', Port: 7000, Check: { TTL: '1h' } }),
    ...registered('plain', { Port: 7100 }),
    ...registered('mesh-gateway', {
      Kind: 'mesh-gateway',
      ...gateway,
      TaggedAddresses: { lan: gateway, wan: { Address: '203.0.113.9', Port: 443 } },
    }),
  ],
  '41-exporter-read': [['UNTIL', '/v1/health/service/plain?peer=beta', '"plain"']],
  '69-health-after-unexport': [['UNTIL', '/v1/health/service/billing?peer=beta', '[]']],
  '70-ui-exported-wildcard': [
    ['PUT', 'beta:/v1/config', { Kind: 'exported-services', Name: 'default', Services: [{ Name: '*', Consumers: [{ Peer: 'alpha' }] }] }],
    ['UNTIL', '/v1/health/service/plain?peer=beta', '"plain"'],
  ],
  '80-acceptor-failing': [
    ...['web', 'clisvc'].map((name): Step => ['PUT', '/v1/agent/service/register', { Name: name, ID: `${name}-peered` }]),
    [
      'PUT',
      '/v1/config',
      { Kind: 'exported-services', Name: 'default', Services: ['web', 'clisvc'].map(Name => ({ Name, Consumers: [{ Peer: 'beta' }] })) },
    ],
    ['UNTIL', 'beta:/v1/peering/alpha', '"clisvc"'],
    ['STOP', 'beta'],
    ['UNTIL', '/v1/peering/beta', '"FAILING"'],
  ],
  '90-delete-on-acceptor': [
    ['START', 'beta'],
    ['UNTIL', '/v1/peering/beta', '"ACTIVE"'],
    ['UNTIL', 'beta:/v1/peering/alpha', '"ACTIVE"'],
    // What is read behind it is a deletion that goes on.
    ['HOLD', 'alpha'],
  ],
  '93-dialer-after-remote-delete': [
    ['RELEASE', 'alpha'],
    ['UNTIL', 'beta:/v1/peering/alpha', '"TERMINATED"'],
  ],
  '94-dialer-health-after-terminated': [['UNTIL', 'beta:/v1/health/service/web?peer=alpha', '[]']],
  '96-establish-over-terminated': [
    ['UNTIL', '/v1/peering/beta', 'not found'],
    ['POST', '/v1/peering/token', { PeerName: 'beta' }],
  ],
  '97-dialer-after-reestablish': [
    ['UNTIL', 'beta:/v1/peering/alpha', '"clisvc"'],
    ['UNTIL', 'beta:/v1/peering/alpha', '"ACTIVE"'],
  ],
  '98-delete-on-dialer': [['UNTIL', '/v1/health/service/plain?peer=beta', '"plain"']],
  '99-acceptor-after-dialer-delete': [['UNTIL', '/v1/peering/beta', '"TERMINATED"']],
  'a0-token-mgw-none': [
    ...['', 'beta:'].map((agent): Step => ['PUT', `${agent}/v1/config`, { Kind: 'mesh', Peering: { PeerThroughMeshGateways: true } }]),
    ['PUT', 'beta:/v1/agent/service/deregister/mesh-gateway'],
    ['PUT', '/v1/agent/service/register', { Name: 'mesh-gateway', Kind: 'mesh-gateway', Port: 8443 }],
  ],
}
const peering = replayed('peering')
orders['peering'] = peering.filter(name => name < '80').flatMap((name): Step[] => [...(beforePeering[name] ?? []), name])
orders['peering-end'] = peering.filter(name => name >= '80').flatMap((name): Step[] => [...(beforePeering[name] ?? []), `peering/${name}`])
