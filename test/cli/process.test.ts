// The command line as a process of its own: exit codes, streams, and that nothing keeps it alive.
import { spawn } from 'node:child_process'
import { createServer } from 'node:http'
import t from 'tap'
import { dig } from '../agent/dns/client.ts'
import { freePorts } from '../support/free-ports.ts'
import { cliPath, start, until } from '../support/processes.ts'

const isthmus = (args: string[], env: Record<string, string>, stdin = '') => run(process.execPath, [cliPath, ...args], env, stdin)

function run(
  program: string,
  args: string[],
  env: Record<string, string>,
  stdin = '',
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(program, args, { env: { PATH: process.env['PATH'], ...env } })
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

/** A script that was written for `consul`, run with the name changed. */
const job = `set -eu
consul() { "$NODE" "$MAIN" "$@"; }
consul kv put app/mode blue
consul kv get app/mode
consul config write - <<EOF
Kind = "service-intentions"
Name = "web"
Sources = [
  { Name = "api", Action = "allow" },
  { Name = "*", Action = "deny" }
]
EOF
consul intention create -allow ops web
consul intention check api web >/dev/null && echo api may
consul intention check other web >/dev/null || echo other may not
consul kv get nope || echo no such key
consul catalog services -http-addr "http://$CONSUL_HTTP_ADDR" | grep -v consul
`

void t.test("an agent starts with Consul's own command line, and says what of it it passed over", async t => {
  const directory = t.testdir({
    'agent.conf': 'node_name = "alpha"\nperformance {\n  raft_multiplier = 1\n}\nservices {\n  name = "web"\n  port = 80\n}\n',
  })
  const [http, grpcTls, dns] = await freePorts(3)
  const ports = `ports { http = ${http}, grpc_tls = ${grpcTls}, grpc = -1 }`
  const files = ['-config-format=hcl', `-config-file=${directory}/agent.conf`, '-hcl', ports, `-dns-port=${dns}`]
  const flags = ['-dev', '-server', '-bootstrap-expect=1', '-ui', '-datacenter', 'east', '-node-meta', 'rack:r1', '-recursor=127.0.0.1:1']
  const agent = start(process.execPath, [cliPath, 'agent', ...flags, ...files])
  t.teardown(() => agent.stop())
  const env = { CONSUL_HTTP_ADDR: `127.0.0.1:${http}` }
  await until('the agent runs', async () => agent.log().includes('isthmus agent is running'))
  t.match((await isthmus(['members'], env)).stdout, /\nalpha +127\.0\.0\.1:\d+ +alive +server .* east /)
  t.match(
    (await isthmus(['catalog', 'nodes', '-node-meta=rack=r1'], env)).stdout,
    /^Node +ID +Address +DC\nalpha +\S+ +127\.0\.0\.1 +east\n$/,
  )
  t.match((await isthmus(['catalog', 'services'], env)).stdout, /^web$/m)
  const query = { Name: 'q', Service: { Service: 'web' }, DNS: { TTL: '7s' } }
  const made = await fetch(`http://127.0.0.1:${http}/v1/query`, { method: 'POST', body: JSON.stringify(query) })
  t.equal(made.status, 200)
  t.same((await dig(dns!, 'q.query.consul', 'A')).answer, ['q.query.consul. 7 A 127.0.0.1'], 'its prepared queries are answered over DNS')
  t.match(agent.log(), /performance has no meaning here: there is no raft/)
  t.same(await run('sh', ['-c', job], { ...env, NODE: process.execPath, MAIN: cliPath }), {
    code: 0,
    stdout: [
      'Success! Data written to: app/mode',
      'blue',
      'Config entry written: service-intentions/web',
      'Created: ops => web (allow)',
      'api may',
      'other may not',
      'no such key',
      'web',
      '',
    ].join('\n'),
    stderr: 'Error! No key exists at: nope\n',
  })
  t.match((await isthmus(['agent', '-dev', '-bootstrap-expect=3'], {})).stderr, /a cluster has one agent in this version/)
  const taken = `ports { http = -1, dns = -1, grpc = ${http}, grpc_tls = 0 }`
  t.match(
    await isthmus(['agent', '-dev', '-hcl', taken], {}),
    { code: 1, stderr: /cannot listen for gRPC .* set ports\.grpc\n$/ },
    'and ends',
  )
  const ended = new Promise(resolve => agent.child.once('exit', resolve))
  t.same(await isthmus(['leave'], env), { code: 0, stdout: 'Graceful leave complete\n', stderr: '' })
  t.equal(await ended, 0, 'who leaves is gone')
})
