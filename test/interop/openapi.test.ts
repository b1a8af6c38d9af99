/**
 * The OpenAPI document, and what schemathesis makes of it: requests that the document allows and some that it does not, against an agent
 * of ours. Every status must be one that the document names, no failure may be one that nobody foresaw, and the agent must live on.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { pino } from 'pino'
import t from 'tap'
import { routes } from '../../src/agent/http/routes.ts'
import { agentWithHttp } from '../support/agent-parts.ts'
import { ask } from '../support/golden-http.ts'

const run = promisify(execFile)
const deep = process.env['ISTHMUS_DEEP'] === '1'
const wanted = deep ? Number(process.env['ISTHMUS_CASES'] ?? 10_000) : 0
const seed = process.env['ISTHMUS_SEED'] ?? '7'
t.setTimeout(deep ? 3_600_000 : 180_000)

interface Operation {
  parameters: { name: string; in: string }[]
  requestBody?: unknown
  responses: Record<string, unknown>
}
interface Document {
  openapi: string
  paths: Record<string, Record<string, Operation>>
}

t.test('every row of the route table is an operation of the document', async t => {
  const agent = await agentWithHttp()
  t.teardown(() => agent.close())
  const answer = await ask(agent.url, 'GET', '/v1/isthmus/openapi.json')
  const document = JSON.parse(answer.body.toString()) as Document
  t.equal(document.openapi, '3.1.0')
  const told = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map(method => `${method.toUpperCase()} ${path}`),
  )
  const served = routes.map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, '{$1}').replace('*', '{rest}')}`)
  t.same(told.sort(), served.sort())
  t.match(document.paths['/v1/session/create']?.['put']?.requestBody, {
    content: { 'application/json': { schema: { properties: { LockDelay: { oneOf: [{ type: 'string' }, { type: 'integer' }] } } } } },
  })
})

/** A Python that has schemathesis: `.ci/run` makes one; PYTHON_BIN names another. */
const python = process.env['PYTHON_BIN'] ?? resolve('.build', 'python', 'bin', 'python')
const missing = existsSync(python) ? false : `there is no ${python}: the API was not fuzzed with schemathesis`
if (missing) process.stderr.write(`# SKIPPED: ${missing}\n`)

/** Never ends, or takes what the other cases need away. */
const left = /monitor|isthmus\/snapshot|agent\/leave/

t.test('schemathesis finds no status that is not named and no failure that nobody foresaw', { skip: missing }, async t => {
  const unforeseen: string[] = []
  const logger = pino({ level: 'error' }, { write: (line: string) => void unforeseen.push(line) })
  const agent = await agentWithHttp({ logger })
  t.teardown(() => agent.close())
  const directory = mkdtempSync(join(tmpdir(), 'isthmus-openapi-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const document = JSON.parse((await ask(agent.url, 'GET', '/v1/isthmus/openapi.json')).body.toString()) as Document
  for (const [path, methods] of Object.entries(document.paths)) {
    if (left.test(path)) delete document.paths[path]
    // Nobody waits for a blocking query here.
    for (const operation of Object.values(methods))
      operation.parameters = operation.parameters.filter(({ name }) => name !== 'index' && name !== 'hash')
  }
  const file = join(directory, 'openapi.json')
  writeFileSync(file, JSON.stringify(document))
  const operations = Object.values(document.paths).reduce((count, methods) => count + Object.keys(methods).length, 0)
  // Some operations take so little that there are not as many requests to make.
  const examples = deep ? Math.ceil((wanted * 1.3) / operations) : 1
  const checks = 'status_code_conformance'
  const args = ['-m', 'schemathesis.cli', 'run', file, '--url', agent.url, '--phases', 'fuzzing', '--checks', checks]
  args.push(
    '--max-examples',
    String(examples),
    '--mode',
    'all',
    '--seed',
    seed,
    '--request-timeout',
    '20',
    '--no-color',
    '--generation-database',
    'none',
  )
  const output = await run(python, args, { cwd: directory, timeout: 3_000_000, maxBuffer: 64 * 1024 * 1024 }).then(
    ({ stdout }) => ({ ok: true, stdout }),
    (error: { stdout?: string; stderr?: string }) => ({ ok: false, stdout: `${error.stdout ?? ''}${error.stderr ?? ''}` }),
  )
  const cases = Number(/(\d+) generated/.exec(output.stdout)?.[1] ?? 0)
  t.ok(output.ok, output.ok ? `${cases} cases` : output.stdout.slice(-6000))
  t.ok(cases >= Math.max(wanted, operations / 2), `${cases} cases of ${operations} operations`)
  t.same(unforeseen, [], 'nothing unforeseen in the log')
  t.equal((await ask(agent.url, 'GET', '/v1/status/leader')).status, 200, 'the agent lives on')
})
