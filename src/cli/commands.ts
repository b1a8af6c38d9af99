/**
 * Every command of the program, in the order of its help: one file a group, each registering its own. Only the file that is asked for is
 * loaded: a proxy keeps none of the others in memory, and no command waits for them.
 */
import type { CommandGroup } from './command.ts'

export const commands: readonly CommandGroup[] = [
  { names: ['agent'], load: async () => (await import('./agent.ts')).registerAgent },
  { names: ['dev'], load: async () => (await import('./dev/dev.ts')).registerDev },
  { names: ['sidecar'], load: async () => (await import('./sidecar.ts')).registerSidecar },
  { names: ['gateway'], load: async () => (await import('./gateway.ts')).registerGateway },
  { names: ['peering'], load: async () => (await import('./peering.ts')).registerPeering },
  { names: ['config'], load: async () => (await import('./config.ts')).registerConfig },
  { names: ['services'], load: async () => (await import('./services.ts')).registerServices },
  { names: ['catalog'], load: async () => (await import('./catalog.ts')).registerCatalog },
  { names: ['intention'], load: async () => (await import('./intention.ts')).registerIntention },
  { names: ['kv'], load: async () => (await import('./kv.ts')).registerKv },
  { names: ['lock'], load: async () => (await import('./lock/lock.ts')).registerLock },
  { names: ['watch'], load: async () => (await import('./watch.ts')).registerWatch },
  { names: ['event'], load: async () => (await import('./event.ts')).registerEvent },
  { names: ['members'], load: async () => (await import('./members.ts')).registerMembers },
  { names: ['why'], load: async () => (await import('./why.ts')).registerWhy },
  { names: ['whatif'], load: async () => (await import('./whatif.ts')).registerWhatif },
  { names: ['info'], load: async () => (await import('./info.ts')).registerInfo },
  { names: ['snapshot'], load: async () => (await import('./snapshot.ts')).registerSnapshot },
  { names: ['operator'], load: async () => (await import('./operator.ts')).registerOperator },
  { names: ['connect'], load: async () => (await import('./connect.ts')).registerConnect },
  {
    names: ['reload', 'leave', 'join', 'force-leave', 'monitor', 'maint'],
    load: async () => (await import('./lifecycle.ts')).registerLifecycle,
  },
  { names: ['validate'], load: async () => (await import('./validate.ts')).registerValidate },
  { names: ['tls'], load: async () => (await import('./tls.ts')).registerTls },
  { names: ['version'], load: async () => (await import('./version.ts')).registerVersion },
]
