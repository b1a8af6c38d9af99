/**
 * Files of unix sockets. One that a killed process left behind refuses every bind for ever, so it is removed; but only after asking:
 * nothing but a socket is ever removed, and none on which somebody answers.
 */
import { lstatSync, rmSync } from 'node:fs'
import { connect } from 'node:net'

/** Removes what a dead process left at this path; false when another process answers there, or may. */
export function clearSocketFile(path: string): Promise<boolean> {
  return new Promise(resolve => {
    if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket()) return resolve(true)
    const probe = connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve(false)
    })
    probe.once('error', ({ code }: NodeJS.ErrnoException) => {
      // Anything but a refusal (no right to connect, a full queue) says nothing about whether somebody is there.
      if (code !== 'ECONNREFUSED' && code !== 'ENOENT') return resolve(false)
      rmSync(path, { force: true })
      resolve(true)
    })
  })
}
