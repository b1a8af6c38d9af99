/** The two apps of `isthmus dev`: api answers with what it saw, web calls api through its sidecar's local port. Plain servers that know of no mesh. */
import { createServer, type Server } from 'node:http'

export interface App {
  port: number
  close(): Promise<void>
}

/** Answers JSON: the path, and the SPIFFE id that the mesh says has called. `/health` is for its check. */
export function startApi(port: number): Promise<App> {
  return listen(
    createServer((incoming, outgoing) => {
      const caller = /;URI=([^;,]+)/.exec(String(incoming.headers['x-forwarded-client-cert'] ?? ''))?.[1]
      outgoing.setHeader('content-type', 'application/json')
      outgoing.end(`${JSON.stringify({ app: 'api', method: incoming.method, path: incoming.url, caller: caller ?? null })}\n`)
    }),
    port,
  )
}

/** Answers with what api said, or how the mesh refused. */
export function startWeb(port: number, apiPort: number): Promise<App> {
  return listen(
    createServer((incoming, outgoing) => {
      fetch(`http://127.0.0.1:${apiPort}${incoming.url ?? '/'}`, { method: incoming.method, signal: AbortSignal.timeout(5000) })
        .then(async answer => ({ status: answer.status, text: (await answer.text()).trim() }))
        .catch((error: unknown) => ({ status: 502, text: String(error) }))
        .then(
          answer => {
            outgoing.writeHead(answer.status, { 'content-type': 'text/plain' })
            outgoing.end(`web asked api and got ${answer.status}: ${answer.text}\n`)
          },
          () => outgoing.destroy(),
        )
    }),
    port,
  )
}

async function listen(server: Server, port: number): Promise<App> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', resolve)
  })
  return {
    port: (server.address() as { port: number }).port,
    async close() {
      server.closeAllConnections()
      await new Promise(resolve => server.close(resolve))
    },
  }
}
