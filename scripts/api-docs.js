// Writes docs/api.md from the route table and the error codes of the built program. test/docs.test.ts fails when the page and the
// program differ. `npm run docs` calls it; with --print DIST it prints what that build says instead.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const [flag, given] = process.argv.slice(2)
const dist = flag === '--print' ? resolve(given) : join(root, 'dist')
const load = path => import(pathToFileURL(join(dist, 'src', 'agent', 'http', path)).href)
const { routes } = await load('routes.js')
const { statuses } = await load('errors.js')

const head = `# HTTP API

Written by \`scripts/api-docs.js\` from the route table; do not edit. Shapes, parameters and texts are those of Consul 1.16, so its
clients work and its documentation applies. \`:name\` stands for one segment, \`*\` for all the rest. Reads take \`?index=\` and \`?wait=\`
(blocking queries), lists also \`?filter=\`; \`?pretty\` indents.
`
const errors = `## Errors

The body is text that names the thing and ends with the next step. Every expected failure carries a code of \`lib/errors.ts\`:
`

const families = new Map()
for (const route of routes) {
  const family = route.path.split('/')[2]
  families.set(family, [...(families.get(family) ?? []), route])
}
const cell = text => text.replaceAll('|', '\\|')
const tables = [...families].map(([family, rows]) => {
  const lines = rows.map(({ method, path, what }) => `| ${method} | \`${path}\` | ${cell(what)} |`)
  return `## /v1/${family}\n\n| method | path | what it does |\n| --- | --- | --- |\n${lines.join('\n')}\n`
})
const codes = Object.entries(statuses).map(([code, status]) => `| \`${code}\` | ${status} |`)
const page = [head, ...tables, `${errors}\n| code | status |\n| --- | --- |\n${codes.join('\n')}\n`].join('\n')

if (flag === '--print') process.stdout.write(page)
else {
  mkdirSync(join(root, 'docs'), { recursive: true })
  writeFileSync(join(root, 'docs', 'api.md'), page)
}
