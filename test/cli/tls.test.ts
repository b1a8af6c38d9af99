// The agent behind TLS: proven by a CA that the operator names, refused otherwise; and the command's own certificate.
import { createServer } from 'node:https'
import type { TLSSocket } from 'node:tls'
import t from 'tap'
import { Mint } from '../support/mint.ts'
import { isthmus } from './harness.ts'

void t.test('an agent behind TLS is believed only if the named CA vouches for it', async t => {
  const mint = new Mint()
  t.teardown(() => mint.remove())
  const ca = await mint.root('a.consul')
  const other = await mint.root('b.consul')
  const server = await mint.leaf(ca, { san: 'DNS:agent.example,IP:127.0.0.1' })
  const client = await mint.leaf(ca, { san: 'DNS:me.example' })
  const shown: (string | undefined)[] = []
  let auth: string | undefined
  const https = createServer(
    { cert: server.certPem, key: server.keyPem, ca: ca.certPem, requestCert: true, rejectUnauthorized: false },
    (incoming, outgoing) => {
      shown.push((incoming.socket as TLSSocket).getPeerCertificate().subjectaltname)
      auth = incoming.headers.authorization
      outgoing.end('[]')
    },
  )
  t.teardown(() => new Promise(resolve => https.close(resolve)))
  await new Promise<void>(resolve => https.listen(0, '127.0.0.1', resolve))
  const address = `127.0.0.1:${(https.address() as { port: number }).port}`
  const list = (flags: string[], env: Record<string, string> = {}) => isthmus(['peering', 'list', ...flags], { env })

  const fine = { code: 0, stdout: 'There are no peering connections.\n', stderr: '' }
  t.same(await list([`-http-addr=https://${address}`, `-ca-file=${ca.certPath}`]), fine)
  t.same(await list([`-http-addr=${address}`], { CONSUL_HTTP_SSL: 'true', CONSUL_CACERT: ca.certPath }), fine)
  t.same(await list([`-http-addr=https://${address}`, `-ca-file=${ca.certPath}`, '-tls-server-name=agent.example']), fine)
  const directory = t.testdir({ 'a.pem': other.certPem, 'b.pem': ca.certPem })
  t.same(await list([`-http-addr=https://${address}`, `-ca-path=${directory}`]), fine)
  t.same(await list([`-http-addr=https://${address}`], { CONSUL_CAPATH: directory, CONSUL_HTTP_AUTH: 'me:secret' }), fine)
  t.equal(auth, 'Basic bWU6c2VjcmV0')
  const own = [`-client-cert=${client.certPath}`, `-client-key=${client.keyPath}`]
  t.same(await list([`-http-addr=https://${address}`, `-ca-file=${ca.certPath}`, ...own]), fine)
  t.equal(shown.at(-1), 'DNS:me.example')
  t.ok(shown.slice(0, -1).every(each => each === undefined))

  for (const flags of [[], [`-ca-file=${other.certPath}`], [`-ca-file=${ca.certPath}`, '-tls-server-name=other.example']]) {
    const refused = await list([`-http-addr=https://${address}`, ...flags])
    t.equal(refused.code, 1)
    t.match(
      refused.stderr,
      /^Error listing peerings: Get "https:.*\nThe connection to https:\S+ could not be secured. Name the agent's CA with --ca-file/,
    )
  }
  t.same(await list([`-http-addr=https://${address}`], { CONSUL_HTTP_SSL_VERIFY: 'false' }), fine, 'unless the operator says not to look')
})
