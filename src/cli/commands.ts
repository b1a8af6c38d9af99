/**
 * Every command of the program, in the order of its help: one file a command or a few, each registering itself. A file is loaded when
 * one of its commands is run, because a script that runs many of them should not wait for all.
 */
import type { Register } from './command.ts'

export interface CommandFile {
  commands: readonly string[]
  load: () => Promise<Register>
}

export const commands: readonly CommandFile[] = [
  { commands: ['agent'], load: async () => (await import('./agent.ts')).registerAgent },
  { commands: ['dev'], load: async () => (await import('./dev/dev.ts')).registerDev },
  { commands: ['sidecar'], load: async () => (await import('./sidecar.ts')).registerSidecar },
  { commands: ['gateway'], load: async () => (await import('./gateway.ts')).registerGateway },
  { commands: ['peering'], load: async () => (await import('./peering.ts')).registerPeering },
  { commands: ['config'], load: async () => (await import('./config.ts')).registerConfig },
  { commands: ['services'], load: async () => (await import('./services.ts')).registerServices },
  { commands: ['catalog'], load: async () => (await import('./catalog.ts')).registerCatalog },
  { commands: ['intention'], load: async () => (await import('./intention.ts')).registerIntention },
  { commands: ['kv'], load: async () => (await import('./kv.ts')).registerKv },
  { commands: ['lock'], load: async () => (await import('./lock/lock.ts')).registerLock },
  { commands: ['watch'], load: async () => (await import('./watch.ts')).registerWatch },
  { commands: ['event'], load: async () => (await import('./event.ts')).registerEvent },
  { commands: ['members'], load: async () => (await import('./members.ts')).registerMembers },
  { commands: ['why'], load: async () => (await import('./why.ts')).registerWhy },
  { commands: ['whatif'], load: async () => (await import('./whatif.ts')).registerWhatif },
  { commands: ['info'], load: async () => (await import('./info.ts')).registerInfo },
  { commands: ['snapshot'], load: async () => (await import('./snapshot.ts')).registerSnapshot },
  { commands: ['operator'], load: async () => (await import('./operator.ts')).registerOperator },
  { commands: ['connect'], load: async () => (await import('./connect.ts')).registerConnect },
  {
    commands: ['reload', 'leave', 'join', 'force-leave', 'monitor', 'maint'],
    load: async () => (await import('./lifecycle.ts')).registerLifecycle,
  },
  { commands: ['validate'], load: async () => (await import('./validate.ts')).registerValidate },
  { commands: ['tls'], load: async () => (await import('./tls.ts')).registerTls },
  { commands: ['version'], load: async () => (await import('./version.ts')).registerVersion },
]
