/** Services and checks of the configuration files: registered at the start and at every reload; what a file no longer names goes. */
import type { CheckDefinition } from '../../mesh/check.ts'
import type { ServiceDefinition } from '../../mesh/service.ts'
import { Turns } from '../../lib/turns.ts'
import type { LocalAgent } from './local-agent.ts'

interface Configured {
  services: ServiceDefinition[]
  checks: CheckDefinition[]
}

export class ConfiguredServices {
  readonly #agent: LocalAgent
  readonly #turns = new Turns()
  #services = new Set<string>()
  #checks = new Set<string>()

  constructor(agent: LocalAgent) {
    this.#agent = agent
  }

  /** One after another: what one reload still registers the next could not yet take away. */
  apply(configured: Configured): Promise<void> {
    return this.#turns.run('', () => this.#apply(configured))
  }

  async #apply({ services, checks }: Configured): Promise<void> {
    const before = { services: this.#services, checks: this.#checks }
    const named = { services: services.map(each => each.id || each.name), checks: checks.map(each => each.id || (each.name ?? '')) }
    // Should it fail halfway, the next one takes away what this one could not.
    this.#services = new Set([...before.services, ...named.services])
    this.#checks = new Set([...before.checks, ...named.checks])
    const [next, nextChecks] = [new Set(named.services), new Set(named.checks)]
    for (const id of before.checks) if (!nextChecks.has(id) && this.#agent.checks().has(id)) await this.#agent.deregisterCheck(id)
    for (const id of before.services) if (!next.has(id) && this.#agent.service(id)) await this.#agent.deregisterService(id)
    for (const service of services) await this.#agent.registerService(service)
    for (const check of checks) await this.#agent.registerCheck(check)
    this.#services = next
    this.#checks = nextChecks
  }
}
