#!/usr/bin/env node
/** The command line. */
import { setFlagsFromString } from 'node:v8'

/**
 * A request leaves next to nothing that lives on, so collecting costs a proxy the same however small the space for new objects is. At the 1 MiB
 * that V8 begins with it stays in the cache of the core; the 16 MiB that it would grow to are memory for nothing (bench/path, Node 20: 5 MiB of an
 * idle process, 10 of one with 1,000 connections). It begins to grow when code is loaded, so this comes first.
 */
if (['sidecar', 'gateway'].includes(process.argv[2] ?? '')) setFlagsFromString('--semi-space-growth-factor=1')

const [{ run }, { commands }, { processContext }] = await Promise.all([
  import('./command.ts'),
  import('./commands.ts'),
  import('./context.ts'),
])
process.exitCode = await run(process.argv.slice(2), commands, processContext())
