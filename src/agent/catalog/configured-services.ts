/** Services and checks of the configuration files: registered at the start and at every reload; what a file no longer names goes. */
import type { CheckDefinition } from '../../mesh/check.ts'
import type { ServiceDefinition } from '../../mesh/service.ts'
import type { LocalAgent } from './local-agent.ts'

interface Configured {
  services: ServiceDefinition[]
  checks: CheckDefinition[]
}

export class ConfiguredServices {
  readonly #agent: LocalAgent
  #services = new Set<string>()
  #checks = new Set<string>()

  constructor(agent: LocalAgent) {
    this.#agent = agent
  }

  async apply({ services, checks }: Configured): Promise<void> {
    const before = { services: this.#services, checks: this.#checks }
    this.#services = new Set(services.map(each => each.id || each.name))
    this.#checks = new Set(checks.map(each => each.id || (each.name ?? '')))
    for (const id of before.checks) if (!this.#checks.has(id) && this.#agent.checks().has(id)) await this.#agent.deregisterCheck(id)
    for (const id of before.services) if (!this.#services.has(id) && this.#agent.service(id)) await this.#agent.deregisterService(id)
    for (const service of services) await this.#agent.registerService(service)
    for (const check of checks) await this.#agent.registerCheck(check)
  }
}
