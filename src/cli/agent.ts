/** `isthmus agent`: runs a cluster's agent until it is told to end. Flags win over the environment, that over files. */
import { InvalidArgumentError, type Command } from 'commander'
import { collectTexts, parseConfigFormat, say, wholeNumber } from './command.ts'
import type { CliContext } from './context.ts'
import { untilSignal } from './running.ts'

interface AgentFlags {
  dev?: boolean
  configFile?: string[]
  configDir?: string[]
  configFormat?: 'hcl' | 'json' | 'yaml'
  hcl?: string[]
  nodeMeta?: Record<string, string>
  recursor?: string[]
  server?: boolean
  allowUnauthenticatedClients?: boolean
  httpPort?: number
  dnsPort?: number
  grpcPort?: number
  grpcTlsPort?: number
  [name: string]: unknown
}

/** Flags that set a key of the same meaning, as Consul names them (spec/cli.md 2). */
const textFlags: [flag: string, key: string, what: string][] = [
  ['--node <name>', 'node_name', 'name of this node; the host name unless told'],
  ['--node-id <id>', 'node_id', 'id of this node; made once and kept unless told'],
  ['--datacenter <name>', 'datacenter', 'name of this cluster'],
  ['--data-dir <dir>', 'data_dir', 'where the store lies; needed, but for --dev'],
  ['--bind <ip>', 'bind_addr', 'where the gRPC door for peers listens'],
  ['--advertise <ip>', 'advertise_addr', 'address that others dial'],
  ['--client <ip>', 'client_addr', 'where HTTP and DNS listen; loopback, or --allow-unauthenticated-clients'],
  ['--domain <name>', 'domain', 'zone that DNS answers for'],
  ['--alt-domain <name>', 'alt_domain', 'a second zone'],
  ['--log-level <level>', 'log_level', 'trace, debug, info, warn or err'],
]

export function registerAgent(program: Command, context: CliContext): void {
  const command = program.command('agent').description("Run a cluster's agent")
  command
    .option('--dev', 'a throw-away agent on loopback; nothing is kept')
    .option('--config-file <file>', 'HCL, JSON or YAML; may be given again', collectTexts)
    .option('--config-dir <dir>', 'a directory of such files, read in alphabetical order', collectTexts)
    .option('--config-format <format>', 'hcl, json or yaml: what a file is whose name does not say it', parseConfigFormat)
    .option('--hcl <text>', 'a fragment of configuration; may be given again', collectTexts)
    .option('--node-meta <key:value>', 'metadata of this node; may be given again', collectMeta)
    .option('--recursor <ip>', 'resolver for names outside our zones; may be given again', collectTexts)
    // What every agent here is, so that Consul's command lines do.
    .option('--server', 'every agent is a server')
    .option('--bootstrap', 'every agent is a cluster of its own')
    .option('--bootstrap-expect <number>', 'every agent is a cluster of its own', onlyOne)
    .option('--ui', 'there is no web UI in this version')
  for (const [flag, , what] of textFlags) command.option(flag, what)
  command
    .option('--http-port <port>', 'HTTP API; -1 closes it, 0 takes any', portNumber)
    .option('--dns-port <port>', 'DNS', portNumber)
    .option('--grpc-port <port>', 'gRPC in plaintext', portNumber)
    .option('--grpc-tls-port <port>', 'gRPC over TLS, for peers', portNumber)
    .option('--allow-unauthenticated-clients', 'let HTTP and DNS listen beyond loopback though there are no ACLs')
    .action(async (flags: AgentFlags) => {
      // Loaded here, so that a command of the API does not wait for it.
      const { startAgent } = await import('../index.ts')
      await untilSignal(async () => {
        const files = [...(flags.configFile ?? []), ...(flags.configDir ?? [])]
        const agent = await startAgent({
          dev: flags.dev ?? false,
          files,
          format: flags.configFormat,
          hcl: flags.hcl,
          env: context.env,
          flags: fragmentOf(command, flags),
        })
        const { config } = agent
        const rows: [string, string][] = [
          ['Node name', config.nodeName],
          ['Datacenter', config.datacenter],
          ['HTTP', agent.httpUrl === '' ? 'closed' : agent.httpUrl],
          ['DNS', agent.dnsPort === undefined ? 'closed' : `port ${agent.dnsPort}`],
          ['Peers', agent.grpcTlsPort === undefined ? 'closed' : `port ${agent.grpcTlsPort} (gRPC over TLS)`],
          ['Data', config.dataDir ?? 'in memory (--dev)'],
        ]
        say(context, ['==> isthmus agent is running', ...rows.map(([name, value]) => `${name.padStart(14)}: ${value}`)].join('\n'))
        return { stop: () => agent.close(), left: agent.left }
      })
    })
}

/** The flags that were given, as a fragment of the configuration file. */
function fragmentOf(command: Command, flags: AgentFlags): Record<string, unknown> {
  const fragment: Record<string, unknown> = {}
  for (const [flag, key] of textFlags) {
    const option = command.options.find(each => each.flags === flag)
    const value = option && flags[option.attributeName()]
    if (value !== undefined) fragment[key] = value
  }
  if (flags.nodeMeta) fragment['node_meta'] = flags.nodeMeta
  if (flags.recursor) fragment['recursors'] = flags.recursor
  if (flags.allowUnauthenticatedClients) fragment['allow_unauthenticated_clients'] = true
  const ports = { http: flags.httpPort, dns: flags.dnsPort, grpc: flags.grpcPort, grpc_tls: flags.grpcTlsPort }
  const given = Object.entries(ports).filter(([, port]) => port !== undefined)
  if (given.length > 0) fragment['ports'] = Object.fromEntries(given)
  return fragment
}

function portNumber(text: string): number {
  return text === '-1' ? -1 : wholeNumber(text)
}

/** Repeatable `k:v`. */
function collectMeta(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf(':')
  if (at < 1) throw new InvalidArgumentError('write it as key:value.')
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) }
}

function onlyOne(text: string): number {
  if (wholeNumber(text) > 1) throw new InvalidArgumentError('a cluster has one agent in this version.')
  return 1
}
