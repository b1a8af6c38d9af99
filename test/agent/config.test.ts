// The agent's configuration: sources and their weight, and every refusal names the key and the next step.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { loadConfig } from '../../src/agent/config.ts'

t.test('flags win over the environment, that over files, later files over earlier ones', t => {
  const directory = mkdtempSync(join(tmpdir(), 'isthmus-config-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  writeFileSync(
    join(directory, 'a.json'),
    JSON.stringify({ datacenter: 'one', node_name: 'n1', log_level: 'debug', ports: { http: 1, dns: 2 }, services: [{ name: 'a' }] }),
  )
  writeFileSync(join(directory, 'b.yaml'), 'datacenter: TWO\nservices:\n  - name: b\n')
  const config = loadConfig({
    files: [directory],
    env: { ISTHMUS_AGENT_PORTS_HTTP: '11', ISTHMUS_AGENT_NODE_NAME: 'n2', PATH: '/bin' },
    flags: { node_name: 'n3', data_dir: '/x', bind_addr: '127.0.0.1' },
  })
  t.match(config, {
    datacenter: 'two',
    nodeName: 'n3',
    logLevel: 'debug',
    doors: { http: { host: '127.0.0.1', port: 11 }, dns: { port: 2 } },
  })
  t.same(
    config.services.map(each => each.name),
    ['a', 'b'],
  )
  t.end()
})

t.test('--dev needs no data_dir, is on loopback and opens plaintext gRPC', t => {
  const config = loadConfig({ dev: true })
  t.equal(config.dataDir, undefined)
  t.same(config.doors, {
    http: { host: '127.0.0.1', port: 8500 },
    dns: { host: '127.0.0.1', port: 8600 },
    grpc: { host: '127.0.0.1', port: 8502 },
    grpcTls: { host: '127.0.0.1', port: 8503 },
  })
  t.end()
})

t.test('a port of -1 closes a door', t => {
  t.match(loadConfig({ dev: true, flags: { ports: { dns: -1, grpc: -1 } } }).doors, { dns: undefined, grpc: undefined })
  t.end()
})

t.test('refusals name the key and the next step', t => {
  const cases: [string, Record<string, unknown>, RegExp][] = [
    ['an unknown key', { bogus: 1 }, /invalid config key bogus/],
    ['a key by the name that its file uses', { http_config: { use_cache: 'x' } }, /\* http_config\.use_cache: /],
    ['a bad type', { ports: { http: 'x' } }, /ports\.http: /],
    ['a port out of range', { ports: { dns: 70_000 } }, /ports\.dns: /],
    ['a bad datacenter', { datacenter: 'a b' }, /datacenter: must be letters/],
    ['a bad address', { bind_addr: 'nowhere' }, /bind_addr: must be an IP address/],
    [
      'an open client address',
      { client_addr: '0.0.0.0' },
      /client_addr 0\.0\.0\.0 is not a loopback address.*allow_unauthenticated_clients/,
    ],
    ['an open HTTP address', { addresses: { http: '10.0.0.1' } }, /addresses\.http 10\.0\.0\.1 is not a loopback address/],
    ['a bad level', { log_level: 'loud' }, /log_level: must be one of/],
  ]
  for (const [what, flags, message] of cases) t.throws(() => loadConfig({ dev: true, flags }), { message }, what)
  t.throws(() => loadConfig({}), /data_dir cannot be empty.*--dev/)
  t.throws(() => loadConfig({ files: ['/nowhere/agent.json'], dev: true }), /cannot read configuration \/nowhere\/agent\.json/)
  t.doesNotThrow(() => loadConfig({ dev: true, flags: { client_addr: '0.0.0.0', allow_unauthenticated_clients: true } }))
  t.end()
})

t.test('HCL files read as JSON ones do; blocks of several files make one list, and an unknown key is named with its file', t => {
  const directory = t.testdir({
    'a.hcl': 'datacenter = "one"\nports {\n  http = 11\n}\nservices {\n  name = "a"\n  port = 1\n  checks {\n    ttl = "9s"\n  }\n}\n',
    'b.hcl': 'ports { dns = 12 }\nservices {\n  name = "b"\n}\nservices {\n  name = "c"\n}\n',
    'c.json': '{"services": [{"name": "d"}], "config_entries": [{"bootstrap": {"kind": "mesh"}}]}',
    'd.hcl': '{"node_name": "json-in-hcl"}',
    'e.json': '',
    'ignored.txt': '???',
  })
  const config = loadConfig({ dev: true, files: [directory], hcl: ['ports { grpc = 13 }', 'node_meta { a = "b" }'] })
  t.match(config, {
    datacenter: 'one',
    nodeName: 'json-in-hcl',
    nodeMeta: { a: 'b' },
    doors: { http: { port: 11 }, dns: { port: 12 }, grpc: { port: 13 } },
    configEntries: { bootstrap: [{ kind: 'mesh' }] },
  })
  t.same(
    config.services.map(each => each.name),
    ['a', 'b', 'c', 'd'],
  )
  t.equal(config.services[0]!.checks?.length, 1)
  const broken = t.testdir({ 'v.hcl': 'bogus = 1\nports {\n  htp = 1\n}\n', 'w.hcl': 'a = [1 2]' })
  t.throws(() => loadConfig({ dev: true, files: [join(broken, 'v.hcl')] }), {
    message: `failed to parse ${join(broken, 'v.hcl')}: 2 errors occurred:\n\t* invalid config key bogus\n\t* invalid config key ports.htp\n\n`,
  })
  t.throws(() => loadConfig({ dev: true, files: [join(broken, 'w.hcl')] }), {
    message: `failed to parse ${join(broken, 'w.hcl')}: At 1:8: expected "," or "]", found "2"`,
  })
  t.throws(
    () => loadConfig({ dev: true, hcl: ['bogus {}'] }),
    /failed to parse flags-0\.hcl: 1 error occurred:\n\t\* invalid config key bogus/,
  )
  t.end()
})
