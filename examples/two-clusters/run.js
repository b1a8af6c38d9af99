// Runs the example as README.md tells it, each part a process of its own, and checks what comes out.
import { join } from 'node:path'
import { cli, isthmus, stay, tell, until } from '../story.js'

const east = { ISTHMUS_HTTP_ADDR: '127.0.0.1:17500' }
const west = { ISTHMUS_HTTP_ADDR: '127.0.0.1:18500' }

await tell(import.meta.dirname, async data => {
  stay('api', ['api.js'])
  const agents = [
    stay('agent east', [cli, 'agent', '--config-file', 'east/agent.json', '--data-dir', join(data, 'east')]),
    stay('agent west', [cli, 'agent', '--config-file', 'west/agent.json', '--data-dir', join(data, 'west')]),
  ]
  await Promise.all(agents.map(agent => agent.says('isthmus agent is running')))
  console.log('1. two clusters run, each with its own CA and catalog')

  console.log(await isthmus(west, 'config', 'write', 'west/api-defaults.json'))
  console.log(await isthmus(west, 'services', 'register', 'west/api.json'))
  console.log(await isthmus(east, 'services', 'register', 'east/web.json'))
  stay('sidecar api', [cli, 'sidecar', '--for', 'api'], west)
  stay('sidecar web', [cli, 'sidecar', '--for', 'web'], east)
  stay('gateway west', [cli, 'gateway', '--address', '127.0.0.1:18443'], west)

  const token = await isthmus(west, 'peering', 'generate-token', '--name', 'east')
  console.log(await isthmus(east, 'peering', 'establish', '--name', 'west', '--peering-token', token))
  await until('the peering is ACTIVE', async () => /ACTIVE/.test(await isthmus(east, 'peering', 'list')))
  console.log(`2. peered\n${await isthmus(east, 'peering', 'list')}`)

  console.log(await isthmus(west, 'config', 'write', 'west/exported-services.json'))
  const get = async () => {
    // A connection that stays would keep the sidecar from ending.
    const response = await fetch('http://127.0.0.1:17191/hello', { headers: { connection: 'close' } })
    return { status: response.status, text: (await response.text()).trim() }
  }
  const denied = await until('api is reached and says no', async () => {
    const answer = await get()
    return answer.status === 403 && answer
  })
  console.log(`3. exported, and denied while no intention allows it: ${denied.status} ${denied.text}`)

  console.log(await isthmus(west, 'config', 'write', 'west/intentions.json'))
  const allowed = await until('api answers', async () => {
    const answer = await get()
    return answer.status === 200 && answer
  })
  console.log(`4. allowed: ${allowed.status} ${allowed.text}`)
  if (!/"caller":"spiffe:\/\/[^"]+\/dc\/east\/svc\/web"/.test(allowed.text)) throw new Error('api did not see who called')
})
