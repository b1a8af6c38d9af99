/**
 * The app behind every pair: nginx on the load's core, as fast as one gets, with the same answers over HTTP/1.1 and HTTP/2; without
 * nginx a plain node server, which is slower and says so in the report.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePorts } from '../../test/support/free-ports.ts'
import { startOn, which } from '../machine/programs.ts'
import { listening } from './listening.ts'
import { startNginx } from './pairs/nginx.ts'

export interface Backend {
  kind: 'nginx' | 'node'
  http: number
  grpc: number
  stop(): Promise<void>
}

export const mebibyte = 1024 * 1024

/** Answers by path: /small 64 bytes, /post 1 KiB, /large 1 MiB; anything with a body is read to its end first. */
export async function startBackend(directory: string): Promise<Backend> {
  const nginx = which('nginx')
  return nginx === undefined ? startNode() : startStatic(nginx, directory)
}

async function startStatic(nginx: string, directory: string): Promise<Backend> {
  const [http, grpc] = (await freePorts(2)) as [number, number]
  const files = join(directory, 'backend')
  mkdirSync(files)
  writeFileSync(join(files, 'large'), Buffer.alloc(mebibyte, 'd'))
  // One gRPC message: not compressed, 64 bytes.
  writeFileSync(join(files, 'unary'), Buffer.concat([Buffer.from([0, 0, 0, 0, 64]), Buffer.alloc(64, 'e')]))
  // `return` answers before the body has come, as no real app does; `mirror` has nginx read it first, a file refuses POST (405), and
  // that is turned into the answer.
  const afterBody = (answer: string) =>
    `client_body_buffer_size 2m; mirror /sink; root ${files}; try_files /large =404; error_page 405 =200 ${answer};`
  const text = `
  default_type text/plain;
  server {
    listen 127.0.0.1:${http} backlog=4096;
    location = /small { return 200 "${'a'.repeat(64)}"; }
    location = /large { root ${files}; sendfile on; }
    location = /post { ${afterBody('/kibibyte')} }
    location = /upload { ${afterBody('/small')} }
    location = /kibibyte { return 200 "${'b'.repeat(1024)}"; }
    location = /sink { internal; return 204; }
  }
  server {
    listen 127.0.0.1:${grpc} http2 backlog=4096;
    http2_max_concurrent_streams 1024;
    location = /answer { default_type application/grpc; add_trailer grpc-status 0; root ${files}; try_files /unary =404; }
    location / { ${afterBody('/answer')} }
  }`
  const running = await startNginx(nginx, 'load', files, text, http)
  return { kind: 'nginx', http, grpc, stop: () => running.stop() }
}

async function startNode(): Promise<Backend> {
  const [http, grpc] = (await freePorts(2)) as [number, number]
  const program = new URL('./node-backend.js', import.meta.url).pathname
  const running = startOn('load', process.execPath, [program, String(http), String(grpc)])
  await listening(running, http)
  return { kind: 'node', http, grpc, stop: () => running.stop() }
}
