// Each command against a real agent's HTTP door: what it prints and how it ends, as spec/cli.md 2 has it.
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { agentWithHttp } from '../support/agent-parts.ts'
import { against } from './harness.ts'

async function agent(t: Test, options: Parameters<typeof agentWithHttp>[0] = {}) {
  const running = await agentWithHttp(options)
  t.teardown(() => running.close())
  return { ...running, run: against(running.url) }
}

const ok = (stdout: string) => ({ code: 0, stdout, stderr: '' })
const failed = (stderr: string) => ({ code: 1, stdout: '', stderr })

void t.test('peering: a token of one cluster joins the other, is listed, read and deleted', async t => {
  const west = await agent(t, { datacenter: 'west' })
  const east = await agent(t, { datacenter: 'east' })
  t.same(await east.run(['peering', 'list']), ok('There are no peering connections.\n'))
  const made = await west.run(['peering', 'generate-token', '-name', 'east'])
  t.equal(made.code, 0)
  const token = made.stdout.trim()
  t.match(token, /^[A-Za-z0-9+/]+=*$/)

  const established = await east.run(['peering', 'establish', '-name=west', '-meta', 'env=prod', '-peering-token', '-'], `${token}\n`)
  t.same(established, ok('Successfully established peering connection with west\n'))
  const list = async () => (await east.run(['peering', 'list'])).stdout
  for (let i = 0; i < 200 && !/ACTIVE.*FRESH/.test(await list()); i++) await new Promise(resolve => setTimeout(resolve, 25))
  t.match(
    await list(),
    /^Name {2}State {3}Imported Svcs {2}Exported Svcs {2}Meta {6}Freshness\nwest {2}ACTIVE {2}0 {14}0 {14}env=prod {2}FRESH \d+\.\ds \(\w+\)\n$/,
  )

  const read = await east.run(['peering', 'read', '-name', 'west'])
  t.match(
    read.stdout,
    new RegExp(
      [
        'Name:         west',
        'ID:           [0-9a-f-]{36}',
        'State:        ACTIVE',
        'Meta:',
        '    env=prod',
        '',
        'Peer ID:               [0-9a-f-]{36}',
        'Peer Server Name:      server\\.west\\.peering\\.[0-9a-f-]{36}\\.consul',
        'Peer CA Pems:          1',
        'Peer Server Addresses:',
        '    127\\.0\\.0\\.1:\\d+',
        '',
        'Imported Services: 0',
        'Exported Services: 0',
        '',
        'Last Heartbeat:    (?:never|\\S+ \\S+ \\+0000 UTC)',
        'Last Send:         (?:never|\\S+ \\S+ \\+0000 UTC)',
        'Last Receive:      (?:never|\\S+ \\S+ \\+0000 UTC)',
        '',
        'Freshness:         FRESH \\d+\\.\\ds \\((?:digest|resync)\\)',
        'Repairs:           0',
        '',
        'Create Index: \\d+',
        'Modify Index: \\d+\n$',
      ].join('\n'),
    ),
  )
  const json = JSON.parse((await east.run(['peering', 'read', '-name', 'west', '-format=json'])).stdout) as { Name: string }
  t.equal(json.Name, 'west')
  t.same(await east.run(['peering', 'delete', '-name', 'west']), ok('Successfully submitted peering connection, west, for deletion\n'))
  t.same(await east.run(['peering', 'delete', '-name', 'nope']), ok('Successfully submitted peering connection, nope, for deletion\n'))
})

void t.test('peering: what is missing or wrong is said', async t => {
  const { run } = await agent(t)
  for (const command of ['generate-token', 'establish', 'read', 'delete']) {
    t.same(await run(['peering', command]), failed('Missing the required -name flag\n'), command)
  }
  t.same(await run(['peering', 'establish', '-name=x']), failed('Missing the required -peering-token flag\n'))
  t.same(await run(['peering', 'read', '-name=nope']), failed('No peering with name nope found.\n'))
  const bad = await run(['peering', 'generate-token', '-name=BAD'])
  t.equal(bad.code, 1)
  t.match(bad.stderr, /^Error generating peering token for BAD: Unexpected response code: 500 \(BAD is not a valid peer name: /)
  t.same(
    await run(['peering', 'establish', '-name=x', '-peering-token=*']),
    failed(
      'Error establishing peering for x: Unexpected response code: 500 (failed to decode token: illegal base64 data at input byte 0)\n',
    ),
  )
  const json = await run(['peering', 'generate-token', '-name=x', '-format=json', '-server-external-addresses=1.2.3.4:5,h:6'])
  const { PeeringToken } = JSON.parse(json.stdout) as { PeeringToken: string }
  t.match(JSON.parse(Buffer.from(PeeringToken, 'base64').toString()), { ManualServerAddresses: ['1.2.3.4:5', 'h:6'] })
})

void t.test('peering: a token is read from a file, too', async t => {
  const { run } = await agent(t)
  const directory = mkdtempSync(join(tmpdir(), 'isthmus-cli-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const file = join(directory, 'token')
  writeFileSync(file, '*\n')
  const outcome = await run(['peering', 'establish', '-name=x', `-peering-token=@${file}`])
  t.match(outcome.stderr, 'illegal base64 data at input byte 0')
})

void t.test('config: entries in JSON and YAML are written, read, listed and deleted', async t => {
  const { run } = await agent(t)
  const yaml = 'kind: service-defaults\nname: api\nprotocol: http\n'
  t.same(await run(['config', 'write', '-'], yaml), ok('Config entry written: service-defaults/api\n'))
  t.same(
    await run(['config', 'write', '-'], '{"Kind":"proxy-defaults","Config":{"protocol":"http"}}'),
    ok('Config entry written: proxy-defaults/global\n'),
  )
  const read = await run(['config', 'read', '-kind', 'service-defaults', '-name', 'api'])
  const entry = JSON.parse(read.stdout) as Record<string, unknown>
  t.match(entry, { Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
  t.notOk('Hash' in entry)
  t.ok(read.stdout.startsWith('{\n    "Kind"'), 'four blanks')
  t.same(await run(['config', 'list', '-kind=service-defaults']), ok('api\n'))
  const index = String(entry['ModifyIndex'])
  const changed = yaml.replace('http', 'tcp')
  t.same(
    await run(['config', 'write', '-cas', '-modify-index=1', '-'], changed),
    failed('Config entry not updated: service-defaults/api\n'),
  )
  t.same(await run(['config', 'write', '-cas', `-modify-index=${index}`, '-'], changed), ok('Config entry written: service-defaults/api\n'))
  t.same(
    await run(['config', 'delete', '-cas', '-modify-index=1', '-kind=service-defaults', '-name=api']),
    failed('Config entry not deleted: service-defaults/api\n'),
  )
  t.same(await run(['config', 'delete', '-filename=-'], yaml), ok('Config entry deleted: service-defaults/api\n'))
  t.same(await run(['config', 'delete', '-kind=service-defaults', '-name=api']), ok('Config entry deleted: service-defaults/api\n'))
  t.same(
    await run(['config', 'read', '-kind=service-defaults', '-name=nope']),
    failed(
      'Error reading config entry service-defaults/nope: Unexpected response code: 404 (Config entry not found for "service-defaults" / "nope")\n',
    ),
  )
})

void t.test('config and services: HCL is read as Consul reads it, and a mistake in it is named with its place', async t => {
  const { run } = await agent(t)
  const intentions = `
# who may call api
Kind = "service-intentions"
Name = "api"
Sources {
  Name   = "web"
  Action = "allow"
}
`
  t.same(await run(['config', 'write', '-'], intentions), ok('Config entry written: service-intentions/api\n'))
  const read = await run(['config', 'read', '-kind', 'service-intentions', '-name', 'api'])
  t.match(JSON.parse(read.stdout), { Sources: [{ Name: 'web', Action: 'allow', Precedence: 9 }] })
  t.same(
    await run(['config', 'write', '-'], 'Kind = "service-defaults"\nName = "clisvc"\nFoo = 1\n'),
    failed('Failed to decode config entry input: 1 error occurred:\n\t* invalid config key "Foo"\n'),
  )
  t.same(
    await run(['config', 'write', '-'], 'Kind = "service-defaults"\nName = api\n'),
    failed('Failed to parse standard input: At 2:8: api is no value; texts stand in double quotes\n'),
  )
  const services = 'service {\n  name = "web"\n  port = 80\n  check {\n    tcp = "127.0.0.1:1"\n    interval = "1h"\n  }\n}\n'
  t.same(await run(['services', 'register', '-'], services), ok('Registered service: web\n'))
  const several = 'services {\n name = "a"\n port = 1\n checks {\n  ttl = "1h"\n }\n}\nservices {\n name = "b"\n port = 2\n}\n'
  t.same(await run(['services', 'register', '-'], several), ok('Registered service: a\nRegistered service: b\n'))
  t.same(
    (await run(['catalog', 'services'])).stdout
      .trim()
      .split('\n')
      .filter(name => name !== 'consul'),
    ['a', 'b', 'web'],
  )
})

void t.test('config: what is no entry is refused with the way out', async t => {
  const { run } = await agent(t)
  t.match((await run(['config', 'write', '-'], 'just text')).stderr, 'must hold a map of keys')
  t.match((await run(['config', 'write', '-'], '{"Kind":')).stderr, 'is neither HCL nor JSON nor YAML')
  t.match((await run(['config', 'write', '-'], Buffer.from([0xff, 0xfe, 0xfd]))).stderr, 'standard input is not text')
  t.match((await run(['config', 'write', '-'], 'name: x')).stderr, 'Payload does not contain a kind/Kind key at the top level')
  t.match((await run(['config', 'write', '/nonexistent.json'])).stderr, 'Failed to read file')
  t.match((await run(['config', 'write'])).stderr, 'Must provide exactly one positional argument')
})

void t.test('services: registered by flags and files, exported, deregistered', async t => {
  const { run, parts } = await agent(t)
  const flags = [
    '-name=web',
    '-id=web-1',
    '-port=8080',
    '-address=127.0.0.1',
    '-tag=a',
    '-tag',
    'b',
    '-meta=k=v=w',
    '-tagged-address=lan=10.0.0.1:80',
  ]
  t.same(await run(['services', 'register', ...flags]), ok('Registered service: web\n'))
  t.match(parts.localAgent.service('web-1'), {
    service: 'web',
    port: 8080,
    tags: ['a', 'b'],
    meta: { k: 'v=w' },
    taggedAddresses: { lan: { address: '10.0.0.1', port: 80 } },
  })
  const file = 'services:\n  - name: api\n    port: 9090\n    connect: { sidecar_service: {} }\n  - name: db\n    port: 5432\n'
  t.same(await run(['services', 'register', '-'], file), ok('Registered service: api\nRegistered service: db\n'))
  t.same([...parts.localAgent.services().keys()].sort(), ['api', 'api-sidecar-proxy', 'db', 'web-1'])
  t.same(await run(['services', 'deregister', '-'], file), ok('Deregistered service: api\nDeregistered service: db\n'))
  t.same(await run(['services', 'deregister', '-id=web-1']), ok('Deregistered service: web-1\n'))
  t.match(
    (await run(['services', 'deregister', '-id=nope'])).stderr,
    /^Error deregistering service "nope": Unexpected response code: 404 \(Unknown service ID "nope"/,
  )
  t.match((await run(['services', 'register', '-'], '{"Name":"x"}')).stderr, 'holds no services')

  t.same(
    await run(['services', 'export', '-name=api', '-consumer-peers=east']),
    ok('Successfully exported service "api" to cluster peers "east"\n'),
  )
  t.same(
    await run(['services', 'export', '-name=db', '-consumer-peers=east,west']),
    ok('Successfully exported service "db" to cluster peers "east,west"\n'),
  )
  t.same(
    await run(['services', 'export', '-name=api', '-consumer-peers=east,west']),
    ok('Successfully exported service "api" to cluster peers "east,west"\n'),
  )
  t.same(parts.tables.configEntry('exported-services', 'default').value?.services, [
    { name: 'db', consumers: [{ peer: 'east' }, { peer: 'west' }] },
    { name: 'api', consumers: [{ peer: 'east' }, { peer: 'west' }] },
  ])
})

void t.test('catalog: nodes, services and datacenters', async t => {
  const { run, parts } = await agent(t)
  await parts.localAgent.registerService({ name: 'web', port: 80, tags: ['b', 'a'] })
  t.same(await run(['catalog', 'datacenters']), ok('dc1\n'))
  t.same(await run(['catalog', 'services']), ok('consul\nweb\n'))
  t.same(await run(['catalog', 'services', '-tags']), ok('consul  \nweb     a,b\n'))
  t.same(await run(['catalog', 'services', '-node=alpha']), ok('consul\nweb\n'))
  const nodes = ok('Node   ID        Address    DC\nalpha  8c652b4a  127.0.0.1  dc1\n')
  t.same(await run(['catalog', 'nodes']), nodes)
  t.same(await run(['catalog', 'nodes', '-service=web']), nodes)
  t.match((await run(['catalog', 'nodes', '-detailed'])).stdout, /8c652b4a-205d-67c9-7aee-11a8075af0f7 .*lan=127\.0\.0\.1.*consul-version=/)
  t.same(await run(['catalog', 'nodes', '-service=nope']), ok('No nodes match the given query - try expanding your search.\n'))
  t.same(await run(['catalog', 'nodes', '-node-meta=a=b']), ok('No nodes match the given query - try expanding your search.\n'))
  t.same(await run(['catalog', 'services', '-node=nope']), ok('No services match the given query - try expanding your search.\n'))
})

void t.test('intention: created, checked, matched, listed, shown and deleted', async t => {
  const { run } = await agent(t)
  t.same(await run(['intention', 'list']), ok('There are no intentions.\n'))
  t.same(await run(['intention', 'create', 'a', 'b']), ok('Created: a => b (allow)\n'))
  const again = await run(['intention', 'create', '-deny', 'a', 'b'])
  t.match(again, {
    code: 1,
    stderr: /^Error creating intention "a => b \(deny\)": Unexpected response code: 500 \(Sources\[1\] defines "a" more than once/,
  })
  t.same(await run(['intention', 'check', 'a', 'b']), ok('Allowed\n'))
  t.same(await run(['intention', 'create', '-replace', '-deny', 'a', 'b']), ok(''))
  t.same(await run(['intention', 'check', 'a', 'b']), { code: 1, stdout: 'Denied\n', stderr: '' })
  t.same(await run(['intention', 'match', 'b']), ok('a => b (deny)\n'))
  t.same(await run(['intention', 'match', '-source', 'a']), ok('a => b (deny)\n'))
  t.match((await run(['intention', 'list'])).stdout, /^ID +Source +Action +Destination +Precedence\n[0-9a-f-]* +a +deny +b +9\n$/)
  t.match((await run(['intention', 'get', 'a', 'b'])).stdout, /^Source: +a\nDestination: +b\nAction: +deny\nID: .*\n/)
  t.same(await run(['intention', 'get', 'zz', 'yy']), failed('Intention not found with source "zz" and destination "yy"\n'))
  t.same(await run(['intention', 'delete', 'a', 'b']), ok('Intention deleted.\n'))
  t.same(await run(['intention', 'delete', 'a', 'b']), ok('Intention deleted.\n'))
  t.match((await run(['intention', 'create', 'a'])).stderr, 'requires exactly two arguments')
})

void t.test("intention: a peer's caller is sent to config entries, with the entry to write", async t => {
  const { run } = await agent(t)
  const refused = await run(['intention', 'create', 'peer:east/web', 'api'])
  t.equal(refused.code, 1)
  const entry = /echo '(.*)' \| isthmus config write -/.exec(refused.stderr)?.[1]
  t.same(await run(['config', 'write', '-'], entry), ok('Config entry written: service-intentions/api\n'), 'and that entry is a good one')
  t.match((await run(['intention', 'list'])).stdout, /peer:east\/web +allow +api +9/)
  t.match((await run(['intention', 'get', 'peer:east/web', 'api'])).stdout, /^Source: +peer:east\/web\n/)
  const l7 = {
    Kind: 'service-intentions',
    Name: 'l7',
    Sources: [{ Name: 'web', Permissions: [{ Action: 'allow', HTTP: { PathPrefix: '/' } }] }],
  }
  await run(['config', 'write', '-'], JSON.stringify({ Kind: 'service-defaults', Name: 'l7', Protocol: 'http' }))
  await run(['config', 'write', '-'], JSON.stringify(l7))
  t.match(
    (await run(['intention', 'get', 'web', 'l7'])).stdout,
    /^Source: +web\nDestination: +l7\nID: +\nPermissions:\n\[\n {2}\{\n {4}"Action": "allow",\n/,
  )
  t.same(await run(['intention', 'match', 'l7']), ok('web => l7 (1 permission)\n'))
})

void t.test('kv: put, get and delete, with their conditions', async t => {
  const { run } = await agent(t)
  t.same(await run(['kv', 'put', 'a/b', 'one']), ok('Success! Data written to: a/b\n'))
  t.same(await run(['kv', 'put', 'a/c', '-'], 'two\nlines'), ok('Success! Data written to: a/c\n'))
  t.same(await run(['kv', 'put', 'b', '-base64', 'AAEC', '-flags=42']), ok('Success! Data written to: b\n'))
  t.same(await run(['kv', 'get', 'a/b']), ok('one\n'))
  t.same(await run(['kv', 'get', '-base64', 'b']), ok('AAEC\n'))
  t.same(await run(['kv', 'get', '-recurse', 'a/']), ok('a/b:one\na/c:two\nlines\n'))
  t.same(await run(['kv', 'get', '-keys', '']), ok('a/\nb\n'))
  t.match(
    (await run(['kv', 'get', '-detailed', 'b', '-base64'])).stdout,
    /^CreateIndex +\d+\nFlags +42\nKey +b\nLockIndex +0\nModifyIndex +\d+\nSession +-\nValue +AAEC\n$/,
  )
  // What `consul lock` marks its keys with: more than a JavaScript number can hold.
  t.same(
    await run(['kv', 'put', 'lock', '"Flags":12345678901234567', '-flags=3304740253564472344']),
    ok('Success! Data written to: lock\n'),
  )
  t.match((await run(['kv', 'get', '-detailed', 'lock'])).stdout, /\nFlags +3304740253564472344\n[^]*\nValue +"Flags":12345678901234567\n$/)
  t.same(await run(['kv', 'delete', 'lock']), ok('Success! Deleted key: lock\n'))
  t.same(await run(['kv', 'get', 'nope']), failed('Error! No key exists at: nope\n'))
  t.same(await run(['kv', 'put', 'x//y/../z', 'there']), ok('Success! Data written to: x//y/../z\n'))
  t.same(await run(['kv', 'get', 'x/z']), ok('there\n'), "a path that the agent cleans is followed, as Go's clients follow it")
  t.same(await run(['kv', 'put', '-cas', 'x/new', '1']), ok('Success! Data written to: x/new\n'), 'no index means that there must be none')
  t.same(await run(['kv', 'delete', '-recurse', 'x/']), ok('Success! Deleted keys with prefix: x/\n'))
  t.same(
    await run(['kv', 'put', '-cas', '-modify-index=0', 'a/b', 'x']),
    failed('Error! Did not write to a/b: CAS performed with index=0 and key already exists.\n'),
  )
  t.same(await run(['kv', 'delete', '-cas', '-modify-index=1', 'a/b']), failed('Error! Did not delete key a/b: CAS failed\n'))
  t.same(await run(['kv', 'delete', 'b']), ok('Success! Deleted key: b\n'))
  t.same(await run(['kv', 'delete', '-recurse', 'a']), ok('Success! Deleted keys with prefix: a\n'))
  t.same(await run(['kv', 'get', '-keys', '']), ok(''))
  t.same(await run(['kv', 'get']), failed('Error! Missing KEY argument\n'))
})

void t.test('kv: a tree is exported and imported again, byte for byte', async t => {
  const { run } = await agent(t)
  t.same(await run(['kv', 'export']), ok('[]\n'))
  await run(['kv', 'put', 'cli/a', 'one'])
  await run(['kv', 'put', 'cli/b/', '-base64', '-flags=3304740253564472344', 'AAEC'])
  const exported =
    '[\n\t{\n\t\t"key": "cli/a",\n\t\t"flags": 0,\n\t\t"value": "b25l"\n\t},\n' +
    '\t{\n\t\t"key": "cli/b/",\n\t\t"flags": 3304740253564472344,\n\t\t"value": "AAEC"\n\t}\n]\n'
  t.same(await run(['kv', 'export', 'cli/']), ok(exported))
  t.same(await run(['kv', 'import', '-prefix=copy', '-'], exported), ok('Imported: copy/cli/a\nImported: copy/cli/b/\n'))
  t.same(await run(['kv', 'export', 'copy/']), ok(exported.replaceAll('"cli/', '"copy/cli/')))
  const other = await agent(t)
  t.same(await other.run(['kv', 'import', exported]), ok('Imported: cli/a\nImported: cli/b/\n'))
  t.same(await other.run(['kv', 'export']), ok(exported))
  for (const [data, message] of [
    ['{}', 'Cannot unmarshal data: it is no list of {"key", "flags", "value"}\n'],
    ['[{"key":"ok","value":""},{"value":""}]', 'Cannot unmarshal data: entry 1 has no key\n'],
    ['[{"key":"k","flags":-1}]', 'Cannot unmarshal data: the flags of k are no whole number\n'],
    ['[{"key":"k","value":"?"}]', 'Error base 64 decoding value for key k\n'],
  ] as const)
    t.same(await other.run(['kv', 'import', data]), failed(message))
  t.match((await other.run(['kv', 'import', '[']))?.stderr, /^Cannot unmarshal data: /)
  t.same(await other.run(['kv', 'get', 'ok']), failed('Error! No key exists at: ok\n'), 'nothing was written of a list that is half good')
  t.same(await run(['kv', 'put', '-acquire', 'lock']), failed('Error! Missing -session (required with -acquire and -release)\n'))
})

void t.test('info: every group of what the agent says of itself', async t => {
  const { run } = await agent(t)
  const { code, stdout } = await run(['info'])
  t.equal(code, 0)
  t.match(stdout, /^(?:[a-z_]+:\n(?:\t\w+ = .*\n)+)+$/)
})

void t.test('members: the table, its filters, and 2 when nobody matches', async t => {
  const { run } = await agent(t)
  const { code, stdout } = await run(['members'])
  t.equal(code, 0)
  t.match(
    stdout,
    /^Node +Address +Status +Type +Build +Protocol +DC +Partition +Segment\nalpha +127\.0\.0\.1:\d+ +alive +server +\S+ +2 +dc1 +default +<all>\n$/,
  )
  t.match((await run(['members', '-detailed'])).stdout, /alpha .*dc=dc1,/)
  t.same(await run(['members', '-status=left']), { code: 2, stdout: '', stderr: 'No members match the given query.\n' })
  t.match((await run(['members', '-status=('])).stderr, 'Failed to compile status regexp')
})

void t.test('snapshot: what was saved is verified, shown and restored', async t => {
  const { run } = await agent(t)
  const file = join(t.testdir(), 'backup.snap')
  await run(['kv', 'put', 'a', 'one'])
  t.match(await run(['snapshot', 'save', file]), { code: 0, stdout: /^Saved and verified snapshot to index \d+\n$/, stderr: '' })
  t.equal(statSync(file).mode & 0o777, 0o600)
  t.match(
    (await run(['snapshot', 'inspect', file])).stdout,
    /^ ID +2-\d+-\d+\n Size +\d+\n Index +\d+\n Term +2\n Version +1\n\n Type +Count +Size\n[^]*\n kv +1 +\d+\n/,
  )
  const inspected = JSON.parse((await run(['snapshot', 'inspect', '-format=json', file])).stdout) as {
    Meta: object
    Stats: { Name: string; Count: number }[]
  }
  t.match(inspected.Meta, { Version: 1, Term: 2 })
  t.equal(inspected.Stats.find(each => each.Name === 'kv')?.Count, 1)
  await run(['kv', 'put', 'a', 'two'])
  await run(['kv', 'put', 'b', 'three'])
  t.same(await run(['snapshot', 'restore', file]), ok('Restored snapshot\n'))
  t.same(await run(['kv', 'get', '-recurse', '']), ok('a:one\n'))
  writeFileSync(file, 'zzz')
  t.same(
    await run(['snapshot', 'restore', file]),
    failed('Error restoring snapshot: Unexpected response code: 500 (failed to decompress snapshot: unexpected EOF)\n'),
  )
  t.match(await run(['snapshot', 'inspect', file]), { code: 1, stderr: /^Error reading snapshot: failed to decompress snapshot/ })
  t.same(await run(['snapshot', 'save']), failed('Missing FILE argument\n'))
})

void t.test('reload and maint: what an operator tells a running agent', async t => {
  const { run } = await agent(t)
  t.same(await run(['reload']), ok('Configuration reload triggered\n'))
  await run(['services', 'register', '-name=web', '-port=80'])
  t.same(await run(['maint']), ok(''))
  t.same(await run(['maint', '-enable', '-reason=disk', '-service=web']), ok('Service maintenance is now enabled for "web"\n'))
  t.same(await run(['maint', '-enable']), ok('Node maintenance is now enabled\n'))
  const { stdout } = await run(['maint'])
  t.match(stdout, /^Node:\n {2}Name: {3}alpha\n {2}Reason: .+\n\n/m)
  t.match(stdout, /^Service:\n {2}ID: {5}web\n {2}Reason: disk\n\n/m)
  t.same(await run(['maint', '-disable']), ok('Node maintenance is now disabled\n'))
  t.same(await run(['maint', '-disable', '-service=web']), ok('Service maintenance is now disabled for "web"\n'))
  t.same(await run(['maint']), ok(''))
  t.same(await run(['maint', '-enable', '-disable']), failed('Only one of -enable or -disable may be provided\n'))
  t.same(await run(['maint', '-reason=x']), failed('Reason may only be provided with -enable\n'))
})

void t.test('kv put: a session locks a key and lets it go', async t => {
  const { run, url } = await agent(t)
  const session = async () => {
    const answer = await fetch(`${url}/v1/session/create`, { method: 'PUT', body: '{}' })
    return ((await answer.json()) as { ID: string }).ID
  }
  const [mine, other] = [await session(), await session()]
  t.same(await run(['kv', 'put', '-acquire', `-session=${mine}`, 'lead', 'me']), ok('Success! Lock acquired on: lead\n'))
  t.same(await run(['kv', 'put', '-acquire', `-session=${other}`, 'lead', 'you']), failed('Error! Did not acquire lock\n'))
  t.same(await run(['kv', 'put', '-release', `-session=${mine}`, 'lead', 'done']), ok('Success! Lock released on: lead\n'))
  t.same(await run(['kv', 'get', 'lead']), ok('done\n'))
})

void t.test('operator: the one server, its settings, and how much the cluster holds', async t => {
  const { run } = await agent(t, { nodeId: '8c652b4a-205d-67c9-7aee-11a8075af0f7' })
  t.match(
    (await run(['operator', 'raft', 'list-peers'])).stdout,
    /^Node +ID +Address +State +Voter +RaftProtocol +Commit Index +Trails Leader By\nalpha +8c652b4a-\S+ +127\.0\.0\.1:8300 +leader +true +3 +\d+ +-\n$/,
  )
  t.same(
    await run(['operator', 'raft', 'remove-peer']),
    failed('Error removing peer: an address or id is required for the peer to remove\n'),
  )
  t.same(
    await run(['operator', 'raft', 'remove-peer', '-address', '1.2.3.4:1']),
    failed('Error removing peer: Unexpected response code: 500 (address "1.2.3.4:1" was not found in the Raft configuration)\n'),
  )
  t.match((await run(['operator', 'raft', 'transfer-leader'])).stderr, /Unexpected response code: 500 \(cannot find peer\)\n$/)
  t.same(
    await run(['operator', 'autopilot', 'set-config', '-cleanup-dead-servers=false', '-max-trailing-logs', '10']),
    ok('Configuration updated!\n'),
  )
  t.match(
    (await run(['operator', 'autopilot', 'get-config'])).stdout,
    /^CleanupDeadServers = false\nLastContactThreshold = 200ms\nMaxTrailingLogs = 10\nMinQuorum = 0\n.*\nRedundancyZoneTag = ""\n/,
  )
  t.match((await run(['operator', 'autopilot', 'state'])).stdout, /^Healthy: +true\n[^]*\n {6}Name: +alpha\n[^]*\n {9}"consul-version": "/)
  t.match(JSON.parse((await run(['operator', 'autopilot', 'state', '-format=json'])).stdout), { Healthy: true })
  t.same(await run(['operator', 'autopilot', 'state', '-format=zz']), failed('Unknown format: zz\n'))
  await run(['services', 'register', '-name', 'web', '-port', '80'])
  const billable =
    'Billable Service Instances Total: 1\ndc1 Billable Service Instances: 1\n\nBillable Services\nServices      Service instances\n2             1\n'
  const nodes = 'Nodes\nDatacenter      Count\ndc1             1\n\nTotal           1\n'
  t.same(await run(['operator', 'usage', 'instances', '-billable']), ok(`${billable}\n\n${nodes}`))
  t.match(
    (await run(['operator', 'usage', 'instances', '-connect'])).stdout,
    /^Connect Services\nType {21}Service instances\napi-gateway {14}0\n/,
  )
  t.match(
    (await run(['operator', 'usage', 'instances', '-all-datacenters'])).stdout,
    /\nDatacenter {6}Services {6}Service instances\ndc1 {13}2 {13}1\n/,
  )
  t.same(
    await run(['operator', 'usage', 'instances', '-connect', '-billable']),
    failed('Cannot specify both -billable and -connect flags\n'),
  )
})

void t.test('connect, event, join, force-leave: what they say', async t => {
  const { run } = await agent(t)
  const before = JSON.parse((await run(['connect', 'ca', 'get-config'])).stdout) as { Config: object }
  t.match(before, { Provider: 'consul', Config: { LeafCertTTL: '72h' } })
  const after = JSON.stringify({ ...before, Config: { ...before.Config, LeafCertTTL: '48h' } })
  t.same(await run(['connect', 'ca', 'set-config', '-config-file', '-'], after), ok('Configuration updated!\n'))
  t.match(JSON.parse((await run(['connect', 'ca', 'get-config'])).stdout), { Config: { LeafCertTTL: '48h' } })
  t.same(
    await run(['connect', 'ca', 'set-config', '-config-file', '-'], 'null'),
    failed('Error parsing config file: it is not a JSON object; write it as get-config shows it\n'),
  )
  t.same(await run(['connect', 'ca', 'set-config']), failed('The -config-file flag is required\n'))
  t.match(await run(['event', '-name', 'deploy', 'v1']), { code: 0, stdout: /^Event ID: [0-9a-f-]{36}\n$/ })
  t.same(await run(['event']), failed('Event name must be specified\n'))
  t.same(await run(['event', '-name=x', '-tag=y']), failed('Cannot provide tag filter without service filter.\n'))
  t.same(await run(['join', '127.0.0.1']), ok('Successfully joined cluster by contacting 1 nodes.\n'))
  t.match(await run(['join', '10.0.0.1']), {
    code: 1,
    stderr: /^Error joining address '10.0.0.1': .*does not gossip.*\nFailed to join any nodes.\n$/s,
  })
  t.same(
    await run(['force-leave', 'nope']),
    failed("Error force leaving: Unexpected response code: 500 (agent: No node found with name 'nope')\n"),
  )
  t.same(await run(['monitor', '-log-level=zz']), failed('Error starting monitor: Unexpected response code: 400 (Unknown log level: zz)\n'))
})
