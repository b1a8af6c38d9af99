#!/usr/bin/env node
/** The command line. */
import { run } from './command.ts'
import { commands } from './commands.ts'
import { processContext } from './context.ts'

process.exitCode = await run(process.argv.slice(2), commands, processContext())
