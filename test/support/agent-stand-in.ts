/**
 * The least an agent does for its proxies: the snapshot stream, the signing of leaves and hearing that they serve, over real HTTP, with whatever resources a
 * test sets. It does not check what it signs or sends: that is what the tests of the proxy's own distrust need.
 */
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Resource, ResourceKind, ResourceValue } from '../../src/mesh/snapshot.ts'
import type { Mint, Minted } from './mint.ts'

interface Told {
  resources: Map<string, Resource>
  streams: Set<ServerResponse>
}

export class AgentStandIn {
  readonly #mint: Mint
  readonly #server: Server
  readonly #proxies = new Map<string, Told>()
  #version = 1
  /** Who signs; a test may change it. */
  root: Minted
  /** Where it is, or was before it was stopped. */
  url = ''
  /** Leaves signed so far. */
  signed = 0
  /** Proxies that said that they serve. */
  readonly serving: string[] = []
  /** Signs this id instead of the one that the proxy should have. */
  signAs: string | undefined

  constructor(mint: Mint, root: Minted) {
    this.#mint = mint
    this.root = root
    this.#server = createServer((request, response) => {
      const [, , , , what, id] = (request.url ?? '').split('/')
      const proxyId = decodeURIComponent(id ?? '')
      const told = this.#proxies.get(proxyId)
      if (!told) return void response.writeHead(404).end('no such proxy')
      if (what === 'sign') {
        const chunks: Buffer[] = []
        request.on('data', (chunk: Buffer) => chunks.push(chunk))
        request.on('end', () => void this.#sign(proxyId, Buffer.concat(chunks).toString(), response))
        return
      }
      if (what === 'serving') {
        this.serving.push(proxyId)
        return void response.end('{}')
      }
      response.writeHead(200, { 'content-type': 'application/x-ndjson' })
      told.streams.add(response)
      response.once('close', () => told.streams.delete(response))
      this.#send(response, [...told.resources.values()])
    })
  }

  async start(port = 0): Promise<void> {
    await new Promise<void>(resolve => this.#server.listen(port, '127.0.0.1', resolve))
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  /** Adds or replaces resources of a proxy and tells it; a null value deletes. */
  tell(proxyId: string, resources: { [K in ResourceKind]: [K, string, ResourceValue<K> | null] }[ResourceKind][]): void {
    let told = this.#proxies.get(proxyId)
    if (!told) this.#proxies.set(proxyId, (told = { resources: new Map(), streams: new Set() }))
    const lines = resources.map(([kind, name, value]) => ({ kind, name, version: String(this.#version++), value }) as Resource)
    for (const line of lines) {
      if (line.value === null) told.resources.delete(`${line.kind}/${line.name}`)
      else told.resources.set(`${line.kind}/${line.name}`, line)
    }
    for (const stream of told.streams) this.#send(stream, lines)
  }

  /** Says something on every stream of a proxy, as it is. */
  say(proxyId: string, text: string): void {
    for (const stream of this.#proxies.get(proxyId)!.streams) stream.write(text)
  }

  /** As a killed agent: every connection breaks. */
  async stop(): Promise<void> {
    const closed = new Promise(resolve => this.#server.close(resolve))
    this.#server.closeAllConnections()
    await closed
  }

  #send(stream: ServerResponse, lines: Resource[]): void {
    stream.write([...lines, { kind: 'sync', revision: this.#version }].map(line => `${JSON.stringify(line)}\n`).join(''))
  }

  async #sign(proxyId: string, body: string, response: ServerResponse): Promise<void> {
    const self = [...this.#proxies.get(proxyId)!.resources.values()].find(resource => resource.kind === 'self')!.value as {
      spiffeId: string
    }
    const certPem = await this.#mint.sign(this.root, (JSON.parse(body) as { CSR: string }).CSR, {
      san: `URI:${this.signAs ?? self.spiffeId}`,
    })
    this.signed += 1
    const now = Date.now()
    response.end(JSON.stringify({ CertPEM: certPem, SpiffeID: self.spiffeId, ValidAfterMs: now, ValidBeforeMs: now + 3 * 86_400_000 }))
  }
}
