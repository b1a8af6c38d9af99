/**
 * How a proxy is a process: alone, as the successor of one, as a supervisor with workers, or as one of these. All of them get their
 * listening sockets by name from whoever had them before; only the first of a line registers anything, only the last takes it back.
 */
import { InvalidArgumentError, type Command } from 'commander'
import { availableParallelism } from 'node:os'
import { messageOf } from '../lib/errors.ts'
import { createLogger, type Logger } from '../lib/log.ts'
import { endings } from '../proxy/endings.ts'
import { InheritedSockets, takeInherited } from '../proxy/inherited.ts'
import type { SocketSource } from '../proxy/listening-sockets.ts'
import type { RunningProxy } from '../proxy/running-proxy.ts'
import { parseLoopback, type HostPort } from './address.ts'
import { say } from './command.ts'
import { CliError, type CliContext } from './context.ts'
import { PidFile } from './pid-file.ts'
import { untilSignal } from './running.ts'
import { sayReady, startSuccessor, takeRole, type Successor } from './successor.ts'
import { Supervisor } from './supervisor.ts'
import { runWorker } from './worker.ts'

export interface ProxyFlags {
  admin?: HostPort
  cacheDir?: string
  drainTime: number
  restartDrainTime: number
  workers: number
  pidFile?: string
  logLevel: string
}

export interface ProxyJob {
  /** `sidecar web-sidecar-proxy`. */
  name: string
  /** Before the first process starts: what it registers. `inherited` are names of sockets that it is given. */
  begin?(inherited: ReadonlySet<string>): Promise<void>
  /** Before the last one ends. */
  finish?(): Promise<void>
  start(sockets: SocketSource, admin: HostPort | undefined, logger: Logger): Promise<RunningProxy>
}

const maxWorkers = 128
const maxSeconds = 86_400

/** The flags of both kinds of proxy. */
export function withProxyFlags(command: Command): Command {
  return command
    .option('--admin <address>', 'readiness, metrics and the plan, on this loopback host:port', parseLoopback)
    .option('--cache-dir <dir>', 'keep the last plan and the leaf with its key here (mode 0600), for a restart while the agent is down')
    .option('--drain-time <seconds>', 'most that what is open is given to end after SIGTERM', seconds, endings.drainMs)
    .option('--restart-drain-time <seconds>', 'the same in a process that SIGUSR2 has replaced', seconds, endings.handOverMs)
    .option('--workers <n>', 'processes that share the listening sockets; auto is one for each core', workerCount, 1)
    .option('--pid-file <file>', 'keep the id of the process that serves in this file')
    .option('--log-level <level>', 'trace, debug, info, warn or err', 'info')
}

export async function runProxy(context: CliContext, flags: ProxyFlags, job: ProxyJob): Promise<void> {
  const role = takeRole(process.env, process.connected)
  if (role === 'orphan') throw new CliError('this is a worker, and its supervisor is gone')
  const logger = createLogger({ level: flags.logLevel })
  if (role === 'worker') return runWorker(sockets => job.start(sockets, undefined, logger), flags.drainTime, flags.restartDrainTime)
  const inherited = takeInherited(process.env, process.pid, role === 'successor')
  const pidFile = new PidFile(flags.pidFile)
  await untilSignal(async () => {
    if (role === 'first') {
      pidFile.write()
      await job.begin?.(new Set(inherited.keys()))
    }
    const sockets = new InheritedSockets(inherited, role === 'successor')
    const proxy =
      flags.workers > 1
        ? await Supervisor.start({ count: flags.workers, inherited, sockets, admin: flags.admin, logger })
        : await job.start(sockets, flags.admin, logger)
    let ending = false
    const announce = async () => {
      await proxy.ready()
      pidFile.write()
      say(context, `==> ${job.name} is running${proxy.admin ? `, admin on port ${proxy.admin.port}` : ''}`)
      sayReady()
    }
    announce().catch((error: unknown) => {
      if (ending) return
      logger.error({ error: messageOf(error) }, 'cannot start')
      process.exit(1)
    })
    let successor: Successor | undefined
    let replaced = false
    const close = async () => {
      pidFile.remove()
      await proxy.close()
    }
    return {
      async stop() {
        ending = true
        successor?.cancel()
        if (!replaced) await job.finish?.()
        await proxy.drain(flags.drainTime)
        await close()
      },
      async replace() {
        successor = startSuccessor(proxy.descriptors(), logger)
        replaced = await successor.ready
        if (!replaced) return undefined
        return async () => {
          await proxy.handOver(flags.restartDrainTime)
          ending = true
          await close()
        }
      },
    }
  }, true)
}

/** For commander: seconds, as milliseconds. */
function seconds(text: string): number {
  const value = Number(text)
  if (!/^\d+(?:\.\d+)?$/.test(text) || value > maxSeconds) throw new InvalidArgumentError(`write seconds, at most ${maxSeconds}.`)
  return value * 1000
}

function workerCount(text: string): number {
  const count = text === 'auto' ? availableParallelism() : Number(text)
  if (!Number.isInteger(count) || count < 1 || count > maxWorkers)
    throw new InvalidArgumentError(`write a number from 1 to ${maxWorkers}, or auto.`)
  if (count > 1 && process.platform === 'win32') throw new CliError('--workers needs sockets that processes share, which Windows has not')
  return count
}
