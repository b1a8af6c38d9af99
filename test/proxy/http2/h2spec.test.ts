/**
 * h2spec (github.com/summerwind/h2spec) against the listener of a running sidecar pair. H2SPEC_BIN names the program; else it is looked for on
 * the PATH.
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { startApp, startHttp2Scene } from './scene.ts'

const program = process.env['H2SPEC_BIN'] ?? 'h2spec'
const skip =
  spawnSync(program, ['--version']).status !== 0 && 'neither H2SPEC_BIN nor h2spec on the PATH: HTTP/2 was not tested against h2spec'
// In a run of many files a skipped test is easily missed.
if (skip) process.stderr.write(`# SKIPPED: ${skip}\n`)

t.test('h2spec finds nothing', { skip, timeout: 120_000 }, async t => {
  const app = await startApp(stream => {
    stream.resume()
    // Late enough for what h2spec sends after the end of a request.
    stream.on('end', () =>
      setTimeout(() => {
        if (stream.destroyed) return
        stream.respond({ ':status': 200, 'content-type': 'text/plain' })
        if (!stream.writableEnded) stream.end('hello')
      }, 100),
    )
  })
  const scene = await startHttp2Scene(app.port, { protocol: 'http2' })
  const folder = mkdtempSync(join(tmpdir(), 'h2spec-'))
  t.teardown(async () => {
    rmSync(folder, { recursive: true })
    await scene.close()
    app.close()
  })
  const report = join(folder, 'report.xml')
  const child = spawn(program, ['-h', '127.0.0.1', '-p', String(scene.port), '-o', '2', '-j', report], { stdio: 'ignore' })
  await new Promise(resolve => child.once('close', resolve))
  const cases = [...readFileSync(report, 'utf8').matchAll(/<testcase package="([^"]*)" classname="([^"]*)"[^>]*>(<\/testcase>)?/g)]
  t.ok(cases.length > 140, `${cases.length} cases`)
  const failed = cases.filter(([, , , passed]) => passed === undefined).map(([, section, name]) => `${section} ${name}`)
  t.strictSame(failed, [])
})
