/** The app behind the pairs where there is no nginx: the same answers from node:http and node:http2. Run with the two ports. */
import { createServer } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'

const mebibyte = 1024 * 1024
const bodies: Record<string, Buffer> = {
  '/small': Buffer.alloc(64, 'a'),
  '/post': Buffer.alloc(1024, 'b'),
  '/upload': Buffer.alloc(64, 'c'),
  '/large': Buffer.alloc(mebibyte, 'd'),
}
const unary = Buffer.concat([Buffer.from([0, 0, 0, 0, 64]), Buffer.alloc(64, 'e')])
const [http, grpc] = process.argv.slice(2).map(Number)

const plain = createServer({ keepAliveTimeout: 0, requestTimeout: 0 }, (incoming, outgoing) => {
  const body = bodies[incoming.url ?? '']
  incoming.resume()
  incoming.once('end', () => {
    outgoing.writeHead(body ? 200 : 404, { 'content-type': 'text/plain', 'content-length': body?.length ?? 0 })
    outgoing.end(body)
  })
})
plain.listen(http, '127.0.0.1')

const multiplexed = createHttp2Server((incoming, outgoing) => {
  incoming.resume()
  incoming.once('end', () => {
    outgoing.writeHead(200, { 'content-type': 'application/grpc' })
    outgoing.addTrailers({ 'grpc-status': '0' })
    outgoing.end(unary)
  })
})
multiplexed.listen(grpc, '127.0.0.1')
