/** The peering token: a real Consul's token reads and prints the same, and every refusal has a real Consul's words. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as fc from 'fast-check'
import t from 'tap'
import { decodeToken, encodeToken, isHostPort, type PeeringToken } from '../../src/mesh/peering-token.ts'

const golden = JSON.parse(readFileSync(join('test', 'golden', 'peering', 'tokens.json'), 'utf8')) as {
  token: string
  json: string
  errors: { what: string; token: string; message: string }[]
}
const pem = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n'

const sample: PeeringToken = {
  ca: [pem],
  manualServerAddresses: [],
  serverAddresses: ['127.0.0.1:8503'],
  serverName: 'server.dc1.peering.x.consul',
  peerId: 'f3005cf0-2bf6-c67d-5c05-552f449a7453',
  establishmentSecret: 'c2dd591b-c69b-9a2f-7487-73882fc26044',
  remote: { partition: '', datacenter: 'dc1' },
}
const json = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64')

void t.test("a real Consul's token decodes and encodes to the same text", async t => {
  const decoded = decodeToken(golden.token)
  t.ok(decoded.ok)
  if (!decoded.ok) return
  t.equal(encodeToken(decoded.token), golden.token)
  t.same(decoded.token.serverAddresses, ['127.0.1.1:21103'])
  t.equal(decoded.token.remote.datacenter, 'dc1')
})

void t.test('recorded bad tokens are refused with the recorded words', async t => {
  for (const { what, token, message } of golden.errors) t.same(decodeToken(token), { ok: false, message }, what)
})

void t.test('a token with a locality, manual addresses and angle brackets survives the round trip', async t => {
  const token: PeeringToken = {
    ...sample,
    manualServerAddresses: ['peer.example:443'],
    serverName: 'a<b>&c',
    remote: { partition: '', datacenter: 'dc1', locality: { region: 'us-west-1', zone: 'us-west-1a' } },
  }
  const text = encodeToken(token)
  t.match(Buffer.from(text, 'base64').toString(), /"ServerName":"a\\u003cb\\u003e\\u0026c"/)
  t.same(decodeToken(text), { ok: true, token })
})

void t.test('keys match without regard to case, and unknown keys are ignored', async t => {
  const text = json({
    ca: null,
    serveraddresses: ['127.0.0.1:1'],
    servername: '',
    PEERID: 'p',
    establishmentsecret: 's',
    remote: { datacenter: 'x' },
    extra: 1,
  })
  t.same(decodeToken(text), {
    ok: true,
    token: {
      ca: [],
      manualServerAddresses: [],
      serverAddresses: ['127.0.0.1:1'],
      serverName: '',
      peerId: 'p',
      establishmentSecret: 's',
      remote: { partition: '', datacenter: 'x' },
    },
  })
})

void t.test('manual addresses are checked instead of the automatic ones', async t => {
  const token = { ServerAddresses: ['nonsense'], ManualServerAddresses: ['h:1'], PeerID: 'p' }
  t.ok(decodeToken(json(token)).ok)
  t.same(decodeToken(json({ ...token, ManualServerAddresses: ['h:70000'] })), {
    ok: false,
    message: 'h:70000 is not a valid peering server address',
  })
})

void t.test('broken base64 names the byte that Go names', async t => {
  const at = (text: string) => {
    const result = decodeToken(text)
    return result.ok ? undefined : Number(/input byte (\d+)$/.exec(result.message)?.[1])
  }
  t.same([at('@@@@'), at('ab@@'), at('abcdab'), at('abcda==='), at('ab='), at('ab=x'), at('ab==x'), at('abc=de')], [0, 2, 4, 5, 3, 2, 4, 4])
})

void t.test('broken JSON gets words in the manner of Go', async t => {
  const message = (text: string) => {
    const result = decodeToken(Buffer.from(text).toString('base64'))
    return result.ok ? '' : result.message
  }
  t.equal(message(''), 'unexpected end of JSON input')
  t.equal(message('{"CA":'), 'unexpected end of JSON input')
  t.equal(message('{"CA":1 2}'), "invalid character '2' after object key:value pair")
  t.equal(message('{} x'), "invalid character 'x' after top-level value")
  t.equal(message('{"PeerID":7}'), 'json: cannot unmarshal number into Go struct field PeeringToken.PeerID of type string')
  t.equal(message('[]'), 'json: cannot unmarshal array into Go value of type structs.PeeringToken')
})

void t.test('addresses need a host and a port', async t => {
  for (const good of ['127.0.0.1:1', 'host.example:65535', '[::1]:8503']) t.ok(isHostPort(good), good)
  for (const bad of ['', 'host', 'host:', ':', 'host:0', 'host:65536', '::1:8503', 'host:80/x', 'a b:1']) t.notOk(isHostPort(bad), bad)
})

void t.test('base64 decoding agrees with Node on every input that both accept', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), bytes => {
      const padded = Buffer.from(JSON.stringify({ ServerAddresses: ['h:1'], PeerID: Buffer.from(bytes).toString('hex') || 'x' }))
      const result = decodeToken(padded.toString('base64'))
      return result.ok && result.token.peerId === (Buffer.from(bytes).toString('hex') || 'x')
    }),
  )
})

void t.test('arbitrary text never throws', async () => {
  fc.assert(fc.property(fc.string(), text => typeof decodeToken(text).ok === 'boolean'))
  fc.assert(fc.property(fc.json(), text => typeof decodeToken(Buffer.from(text).toString('base64')).ok === 'boolean'))
})
