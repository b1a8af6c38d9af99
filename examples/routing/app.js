// An app of this example: `node app.js NAME PORT [MS]`. It answers everything with its name, after so many milliseconds; /health is for its
// check, and whatever lies under /flaky/ is answered with 503 the first time that it is asked for.
import { createServer } from 'node:http'

const [name = 'app', port = '0', ms = '0'] = process.argv.slice(2)
const asked = new Map()

createServer((request, response) => {
  const times = (asked.get(request.url) ?? 0) + 1
  if (request.url.startsWith('/flaky/')) asked.set(request.url, times)
  request.resume()
  request.on('end', () => {
    response.statusCode = request.url.startsWith('/flaky/') && times === 1 ? 503 : 200
    response.setHeader('content-type', 'application/json')
    const body = `${JSON.stringify({ app: name, path: request.url, times })}\n`
    setTimeout(() => response.end(body), Number(ms))
  })
}).listen(Number(port), '127.0.0.1', () => console.log(`${name} listens on 127.0.0.1:${port}`))
