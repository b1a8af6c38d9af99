/** Every command of the program, in the order of its help: one file a command, each registering itself. */
import { registerAgent } from './agent.ts'
import { registerCatalog } from './catalog.ts'
import type { Register } from './command.ts'
import { registerConfig } from './config.ts'
import { registerConnect } from './connect.ts'
import { registerDev } from './dev/dev.ts'
import { registerEvent } from './event.ts'
import { registerGateway } from './gateway.ts'
import { registerInfo } from './info.ts'
import { registerIntention } from './intention.ts'
import { registerKv } from './kv.ts'
import { registerLifecycle } from './lifecycle.ts'
import { registerLock } from './lock/lock.ts'
import { registerMembers } from './members.ts'
import { registerOperator } from './operator.ts'
import { registerPeering } from './peering.ts'
import { registerServices } from './services.ts'
import { registerSidecar } from './sidecar.ts'
import { registerSnapshot } from './snapshot.ts'
import { registerTls } from './tls.ts'
import { registerValidate } from './validate.ts'
import { registerVersion } from './version.ts'
import { registerWatch } from './watch.ts'
import { registerWhatif } from './whatif.ts'
import { registerWhy } from './why.ts'

export const commands: readonly Register[] = [
  registerAgent,
  registerDev,
  registerSidecar,
  registerGateway,
  registerPeering,
  registerConfig,
  registerServices,
  registerCatalog,
  registerIntention,
  registerKv,
  registerLock,
  registerWatch,
  registerEvent,
  registerMembers,
  registerWhy,
  registerWhatif,
  registerInfo,
  registerSnapshot,
  registerOperator,
  registerConnect,
  registerLifecycle,
  registerValidate,
  registerTls,
  registerVersion,
]
