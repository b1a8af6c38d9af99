/** `isthmus agent`: runs a cluster's agent until it is told to end. Flags win over the environment, that over files. */
import type { Command } from 'commander'
import { collectTexts, say, wholeNumber } from './command.ts'
import type { CliContext } from './context.ts'
import { untilSignal } from './running.ts'

interface AgentFlags {
  dev?: boolean
  configFile?: string[]
  configDir?: string[]
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
    .option('--config-file <file>', 'JSON or YAML; may be given again', collectTexts)
    .option('--config-dir <dir>', 'a directory of such files, read in alphabetical order', collectTexts)
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
        const agent = await startAgent({ dev: flags.dev ?? false, files, env: context.env, flags: fragmentOf(command, flags) })
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
  if (flags.allowUnauthenticatedClients) fragment['allow_unauthenticated_clients'] = true
  const ports = { http: flags.httpPort, dns: flags.dnsPort, grpc: flags.grpcPort, grpc_tls: flags.grpcTlsPort }
  const given = Object.entries(ports).filter(([, port]) => port !== undefined)
  if (given.length > 0) fragment['ports'] = Object.fromEntries(given)
  return fragment
}

function portNumber(text: string): number {
  return text === '-1' ? -1 : wholeNumber(text)
}
