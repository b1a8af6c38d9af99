// Runs the example as README.md tells it up to step 5, each part a process of its own, and checks what comes out. What step 6 says takes
// ten seconds of waiting, and test/e2e/routing-story.test.ts shows it.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { cli, end, isthmus, stay, tell, until } from '../story.js'

const east = { ISTHMUS_HTTP_ADDR: '127.0.0.1:27500' }
const west = { ISTHMUS_HTTP_ADDR: '127.0.0.1:28500' }
const shop = 'http://127.0.0.1:27191'
const api = 'http://127.0.0.1:27192'

/** Who answered, or the status where it is not 200. A connection that stays would keep the sidecar from ending. */
async function asked(url, headers = {}) {
  const response = await fetch(url, { headers: { ...headers, connection: 'close' } })
  const text = await response.text()
  return response.status === 200 ? JSON.parse(text).app : response.status
}

const settles = (url, wanted, headers) => until(`${url} is answered by ${wanted}`, async () => (await asked(url, headers)) === wanted)

function check(what, seen, wanted) {
  if (seen !== wanted) throw new Error(`${what}: ${seen} instead of ${wanted}`)
}

async function setUp(data) {
  const app = stay('shop', ['app.js', 'shop', '27080'])
  stay('api', ['app.js', 'api', '28080'])
  const agents = [
    stay('agent east', [cli, 'agent', '--config-file', 'east/agent.hcl', '--data-dir', join(data, 'east')]),
    stay('agent west', [cli, 'agent', '--config-file', 'west/agent.hcl', '--data-dir', join(data, 'west')]),
  ]
  await Promise.all(agents.map(agent => agent.says('isthmus agent is running')))
  await Promise.all([
    ...['api-defaults', 'exported-services', 'intentions'].map(entry => isthmus(west, 'config', 'write', `west/${entry}.hcl`)),
    isthmus(east, 'config', 'write', 'east/shop-defaults.hcl'),
    isthmus(west, 'services', 'register', 'west/api.hcl'),
    isthmus(east, 'services', 'register', 'east/shop.hcl'),
    isthmus(east, 'services', 'register', 'east/web.hcl'),
  ])
  stay('gateway west', [cli, 'gateway', '--address', '127.0.0.1:28443'], west)
  stay('sidecar api', [cli, 'sidecar', '--for', 'api'], west)
  stay('sidecar shop', [cli, 'sidecar', '--for', 'shop'], east)
  stay('sidecar web', [cli, 'sidecar', '--for', 'web'], east)
  const token = await isthmus(west, 'peering', 'generate-token', '--name', 'east')
  await isthmus(east, 'peering', 'establish', '--name', 'west', '--peering-token', token)
  await settles(`${shop}/`, 'shop')
  await settles(`${api}/`, 'api')
  return app
}

await tell(import.meta.dirname, async data => {
  const app = await setUp(data)
  console.log('web reaches shop here, and api in west')

  await isthmus(east, 'config', 'write', 'east/canary.hcl')
  await settles(`${shop}/`, 'api')
  const counts = { shop: 0, api: 0 }
  for (let i = 0; i < 400; i += 1) counts[await asked(`${shop}/`)] += 1
  console.log(`1. canary: of 400 requests ${counts.shop} were answered by shop and ${counts.api} by api`)
  if (counts.api < 18 || counts.api > 62) throw new Error('that is not a tenth')
  await isthmus(east, 'config', 'delete', '--kind', 'service-splitter', '--name', 'shop')

  await isthmus(east, 'config', 'write', 'east/router.hcl')
  await settles(`${shop}/`, 'api', { 'x-user': 'ada' })
  check('bob', await asked(`${shop}/`, { 'x-user': 'bob' }), 'shop')
  console.log('2. header: ada is answered by api, bob by shop')
  check('what is flaky', await asked(`${shop}/flaky/1`), 'shop')
  console.log('3. retry: 503 was tried again')
  await isthmus(east, 'config', 'delete', '--kind', 'service-router', '--name', 'shop')

  execFileSync(process.execPath, ['staff.js', data])
  await isthmus(west, 'config', 'write', join(data, 'jwt-provider.json'))
  await isthmus(west, 'config', 'write', 'west/gated.hcl')
  const bearer = role => ({ authorization: `Bearer ${readFileSync(join(data, `${role}.token`), 'utf8')}` })
  await settles(`${api}/admin`, 403)
  check('elsewhere', await asked(`${api}/`), 'api')
  check('a guest', await asked(`${api}/admin`, bearer('guest')), 403)
  check('an admin', await asked(`${api}/admin`, bearer('admin')), 'api')
  console.log('4. token: /admin is 403 without one and for a guest, and answered for an admin')

  await isthmus(east, 'config', 'write', 'east/failover.hcl')
  await end(app, 'SIGKILL')
  const diedMs = Date.now()
  await settles(`${shop}/`, 'api')
  console.log(`5. failover: shop is dead, and api answers after ${Date.now() - diedMs} ms`)
})
