/** `isthmus dev`: two peered clusters in one process, ready in seconds; `--demo` walks through the steps, `--once` ends after them. */
import type { Command } from 'commander'
import { createLogger } from '../../lib/log.ts'
import { say } from '../command.ts'
import type { CliContext } from '../context.ts'
import { untilSignal } from '../running.ts'

interface DevFlags {
  demo?: boolean
  once?: boolean
  logLevel: string
}

export function registerDev(program: Command, context: CliContext): void {
  program
    .command('dev')
    .description('Run two peered clusters with a web and an api app in one process')
    .option('--demo', 'walk through the four steps of cluster peering')
    .option('--once', 'end when that is done')
    .option('--log-level <level>', 'trace, debug, info, warn or err', 'err')
    .action(async (flags: DevFlags) => {
      // Loaded here, so that a command of the API does not wait for both planes.
      const { startDevClusters } = await import('./clusters.ts')
      const { peerQuietly, walkThrough, whatToTry } = await import('./walkthrough.ts')
      const show = (line: string) => say(context, line)
      const start = async () => {
        const began = performance.now()
        const clusters = await startDevClusters(createLogger({ level: flags.logLevel }), context)
        try {
          show(`Two clusters are up, each with its own CA, catalog and store: east (web) and west (api)\n`)
          await (flags.demo ? walkThrough(clusters, show) : peerQuietly(clusters))
          show(`Ready in ${((performance.now() - began) / 1000).toFixed(1)} s.`)
        } catch (error) {
          await clusters.close()
          throw error
        }
        return clusters
      }
      if (flags.once) {
        const clusters = await start()
        await clusters.close()
        return
      }
      await untilSignal(async () => {
        const clusters = await start()
        show(whatToTry(clusters))
        return { stop: () => clusters.close() }
      })
    })
}
