// Commands that need no agent: what they read of files, and what they leave behind.
import { X509Certificate, createPrivateKey } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, readdirSync, statSync } from 'node:fs'
import { createServer, connect } from 'node:tls'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { isthmus } from './harness.ts'

const ok = (stdout: string) => ({ code: 0, stdout, stderr: '' })
const failed = (stderr: string) => ({ code: 1, stdout: '', stderr })
const home = process.cwd()

t.afterEach(() => process.chdir(home))

void t.test('validate: a configuration is valid, or the first thing that is wrong is named', async t => {
  process.chdir(
    t.testdir({
      'good.hcl': 'data_dir = "/tmp/x"\nbind_addr = "127.0.0.1"\nserver = true\nbootstrap_expect = 1\nui_config {\n  enabled = true\n}\n',
      'v.json': '{"bogus": 1}',
      'broken.hcl': 'data_dir = "/tmp/x"\nports {\n  http = ,\n}\n',
      'nodata.hcl': 'server = true',
      'typed.hcl': 'data_dir = "/tmp/x"\nports {\n  http = "x"\n}\n',
      plain: 'data_dir = "/tmp/x"\nbind_addr = "127.0.0.1"\n',
    }),
  )
  t.same(
    await isthmus(['validate', 'good.hcl']),
    ok(
      'good.hcl: bootstrap_expect has no meaning here: every agent is a server and a cluster of its own\n' +
        'good.hcl: ui_config has no meaning here: there is no web UI\nConfiguration is valid!\n',
    ),
  )
  t.same(await isthmus(['validate', '-quiet', 'good.hcl']), ok(''))
  t.same(await isthmus(['validate', '-config-format=hcl', 'plain']), ok('Configuration is valid!\n'))
  t.same(
    await isthmus(['validate', 'v.json']),
    failed('Config validation failed: failed to parse v.json: 1 error occurred:\n\t* invalid config key bogus\n'),
  )
  t.same(
    await isthmus(['validate', 'broken.hcl']),
    failed('Config validation failed: failed to parse broken.hcl: At 3:10: expected a value, found ","\n'),
  )
  t.match((await isthmus(['validate', 'nodata.hcl'])).stderr, /^Config validation failed: data_dir cannot be empty/)
  t.match((await isthmus(['validate', 'typed.hcl'])).stderr, /ports\.http: /)
  t.match((await isthmus(['validate', 'nowhere'])).stderr, /^Config validation failed: cannot read configuration nowhere/)
  t.same(await isthmus(['validate']), failed('Must specify at least one config file or directory\n'))
})

void t.test('tls: a CA and certificates from it, which a server and a client believe', async t => {
  process.chdir(t.testdir())
  t.same(await isthmus(['tls', 'ca', 'create']), ok('==> Saved consul-agent-ca.pem\n==> Saved consul-agent-ca-key.pem\n'))
  t.same(await isthmus(['tls', 'ca', 'create']), failed('consul-agent-ca.pem already exists.\n'))
  const server = await isthmus([
    'tls',
    'cert',
    'create',
    '-server',
    '-node=n1',
    '-additional-dnsname=api.example',
    '-additional-ipaddress=fd00::1',
  ])
  t.match(server, {
    code: 0,
    stdout:
      /^==> WARNING: Server [^]*==> Using consul-agent-ca.pem and consul-agent-ca-key.pem\n==> Saved dc1-server-consul-0.pem\n==> Saved dc1-server-consul-0-key.pem\n$/,
  })
  const using = '==> Using consul-agent-ca.pem and consul-agent-ca-key.pem\n'
  const saved = (name: string) => ok(`${using}==> Saved ${name}.pem\n==> Saved ${name}-key.pem\n`)
  t.same(await isthmus(['tls', 'cert', 'create', '-client', '-dc=east', '-days', '10']), saved('east-client-consul-0'))
  t.same(await isthmus(['tls', 'cert', 'create', '-client', '-dc=east']), saved('east-client-consul-1'))
  t.same(await isthmus(['tls', 'cert', 'create', '-cli']), saved('dc1-cli-consul-0'))
  for (const name of readdirSync('.')) t.equal(statSync(name).mode & 0o777, name.endsWith('-key.pem') ? 0o600 : 0o644, name)

  const read = (name: string) => new X509Certificate(readFileSync(name))
  const ca = read('consul-agent-ca.pem')
  const certificate = read('dc1-server-consul-0.pem')
  t.equal(ca.ca, true)
  t.match(ca.subject, /^CN=Consul Agent CA \d+$/)
  t.equal(Math.round((Date.parse(ca.validTo) - Date.parse(ca.validFrom)) / 86_400_000), 1825)
  t.equal(certificate.subject, 'CN=server.dc1.consul')
  t.equal(
    certificate.subjectAltName,
    'DNS:n1.server.dc1.consul, DNS:server.dc1.consul, DNS:localhost, DNS:api.example, IP Address:127.0.0.1, IP Address:FD00:0:0:0:0:0:0:1',
  )
  t.same(certificate.keyUsage, ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2'])
  t.ok(certificate.verify(ca.publicKey) && certificate.checkIssued(ca))
  t.ok(certificate.checkPrivateKey(createPrivateKey(readFileSync('dc1-server-consul-0-key.pem'))))
  t.equal(Math.round((Date.parse(read('east-client-consul-0.pem').validTo) - Date.now()) / 86_400_000), 10)

  const pair = (name: string) => ({
    cert: readFileSync(`${name}.pem`),
    key: readFileSync(`${name}-key.pem`),
    ca: readFileSync('consul-agent-ca.pem'),
  })
  const door = createServer({ ...pair('dc1-server-consul-0'), requestCert: true }, socket => socket.end())
  await once(door.listen(0, '127.0.0.1'), 'listening')
  t.teardown(() => door.close())
  const port = (door.address() as AddressInfo).port
  const socket = connect({ port, host: '127.0.0.1', servername: 'server.dc1.consul', ...pair('east-client-consul-0') })
  await once(socket, 'secureConnect')
  t.ok(socket.authorized)
  socket.destroy()
})

void t.test('tls: a CA with name constraints signs for its own names alone', async t => {
  process.chdir(t.testdir())
  await isthmus([
    'tls',
    'ca',
    'create',
    '-domain=mesh',
    '-name-constraint',
    '-additional-name-constraint=extra',
    '-common-name=Mine',
    '-days=3',
  ])
  await isthmus(['tls', 'cert', 'create', '-server', '-domain=mesh'])
  await isthmus(['tls', 'cert', 'create', '-server', '-domain=mesh', '-additional-dnsname=elsewhere.example'])
  const authorised = async (name: string) => {
    const ca = readFileSync('mesh-agent-ca.pem')
    const door = createServer({ cert: readFileSync(`${name}.pem`), key: readFileSync(`${name}-key.pem`) }, each => each.end())
    await once(door.listen(0, '127.0.0.1'), 'listening')
    const socket = connect({
      port: (door.address() as AddressInfo).port,
      host: '127.0.0.1',
      servername: 'server.dc1.mesh',
      ca,
      rejectUnauthorized: false,
    })
    await once(socket, 'secureConnect')
    const error: Error | string | null = socket.authorizationError
    socket.destroy()
    door.close()
    return error === null ? 'authorised' : typeof error === 'string' ? error : error.message
  }
  t.equal(await authorised('dc1-server-mesh-0'), 'authorised')
  // Node has no word of its own for a permitted subtree violation.
  t.match(await authorised('dc1-server-mesh-1'), /UNSPECIFIED|PERMITTED/)
})

void t.test('tls: what is missing or does not fit is named, and nothing is written', async t => {
  process.chdir(t.testdir({ 'junk.pem': 'junk', 'junk-key.pem': 'junk' }))
  t.same(await isthmus(['tls', 'cert', 'create']), failed('Please provide either -server, -client, or -cli\n'))
  t.match(await isthmus(['tls', 'cert', 'create', '-server', '-cli']), { code: 1, stderr: /only one of them/ })
  t.same(await isthmus(['tls', 'cert', 'create', '-client', '-node=n1']), failed('-node requires -server\n'))
  t.match((await isthmus(['tls', 'cert', 'create', '-cli'])).stderr, /^Failed to read file: .*consul-agent-ca\.pem/)
  t.match(
    (await isthmus(['tls', 'cert', 'create', '-cli', '-ca=junk.pem', '-key=junk-key.pem'])).stderr,
    /^Error reading CA from junk\.pem and junk-key\.pem: /,
  )
  t.match((await isthmus(['tls', 'cert', 'create', '-cli', '-dc=../x'])).stderr, /write it as a DNS name/)
  t.match((await isthmus(['tls', 'cert', 'create', '-cli', '-additional-ipaddress=x'])).stderr, /write it as an IP address/)
  t.match((await isthmus(['tls', 'ca', 'create', '-additional-name-constraint=x'])).stderr, 'Must specify -name-constraint')
  t.same(readdirSync('.').sort(), ['junk-key.pem', 'junk.pem'])
})
