/** One process of the http-proxy pair: node http-proxy-hop.js outbound|inbound PORT NEXT ROOT CERTIFICATE KEY SERVER-NAME. */
import { readFileSync } from 'node:fs'
import { Agent, createServer, type RequestListener } from 'node:http'
import { Agent as TlsAgent, createServer as createTlsServer } from 'node:https'
import { httpProxy } from '../../../src/proxy/http-proxy.ts'

const [role, port, next, rootPath, certPath, keyPath, servername] = process.argv.slice(2) as [string, ...string[]]
const identity = { ca: readFileSync(rootPath!), cert: readFileSync(certPath!), key: readFileSync(keyPath!) }
const proxy = httpProxy().createProxyServer({})
proxy.on('error', (_error, _incoming, outgoing) => outgoing.destroy())

if (role === 'outbound') {
  const agent = new TlsAgent({ keepAlive: true, ...identity, servername })
  const target = { protocol: 'https:', host: '127.0.0.1', port: next! }
  createServer(to(target, agent)).listen(Number(port), '127.0.0.1')
} else {
  const agent = new Agent({ keepAlive: true })
  const target = { protocol: 'http:', host: '127.0.0.1', port: next! }
  createTlsServer({ ...identity, requestCert: true }, to(target, agent)).listen(Number(port), '127.0.0.1')
}

function to(target: { protocol: string; host: string; port: string }, agent: Agent): RequestListener {
  return (incoming, outgoing) => proxy.web(incoming, outgoing, { target, agent })
}
