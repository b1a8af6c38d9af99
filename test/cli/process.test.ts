// The command line as a process of its own: exit codes, streams, and that nothing keeps it alive.
import { spawn } from 'node:child_process'
import { createServer } from 'node:http'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const main = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'src', 'cli', 'main.js')

function isthmus(
  args: string[],
  env: Record<string, string>,
  stdin = '',
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [main, ...args], { env: { PATH: process.env['PATH'], ...env } })
  const out = { stdout: '', stderr: '' }
  child.stdout.on('data', chunk => (out.stdout += chunk))
  child.stderr.on('data', chunk => (out.stderr += chunk))
  child.stdin.end(stdin)
  return new Promise(resolve => child.on('close', code => resolve({ code, ...out })))
}

void t.test('a command reads standard input, prints, and ends with its code', async t => {
  const bodies: string[] = []
  const server = createServer((incoming, outgoing) => {
    let body = ''
    incoming.on('data', chunk => (body += chunk))
    incoming.on('end', () => {
      bodies.push(`${incoming.method} ${incoming.url} ${body}`)
      outgoing.end(incoming.url?.startsWith('/v1/kv') ? '[{"Key":"k","Value":"/wA="}]' : 'true')
    })
  })
  t.teardown(() => new Promise(resolve => server.close(resolve)))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const env = { CONSUL_HTTP_ADDR: `127.0.0.1:${(server.address() as { port: number }).port}` }
  t.same(await isthmus(['config', 'write', '-'], env, 'Kind: mesh'), { code: 0, stdout: 'Config entry written: mesh/mesh\n', stderr: '' })
  t.same(await isthmus(['peering', 'establish', '-name', 'east', '-peering-token', '-'], env, 'dG9rZW4=\n'), {
    code: 0,
    stdout: 'Successfully established peering connection with east\n',
    stderr: '',
  })
  t.same(bodies, ['PUT /v1/config {"Kind":"mesh"}', 'POST /v1/peering/establish {"PeerName":"east","PeeringToken":"dG9rZW4="}'])
  t.match(await isthmus(['peering', 'read'], env), { code: 1, stdout: '', stderr: 'Missing the required -name flag\n' })
  t.match(await isthmus(['members', '-status=left', '-http-addr=127.0.0.1:1'], env), { code: 1, stdout: '' })
})
