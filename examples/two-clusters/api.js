// The api app of this example: answers everything with what it saw, and /health for its check.
import { createServer } from 'node:http'

createServer((request, response) => {
  const caller = /;URI=([^;,]+)/.exec(String(request.headers['x-forwarded-client-cert'] ?? ''))?.[1]
  response.setHeader('content-type', 'application/json')
  response.end(`${JSON.stringify({ app: 'api', path: request.url, caller: caller ?? null })}\n`)
}).listen(18080, '127.0.0.1', () => console.log('api listens on 127.0.0.1:18080'))
