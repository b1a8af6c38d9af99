/** The public face: what a program that embeds isthmus may use. Everything else may change without notice. */
export { startAgent, type Agent, type AgentOptions } from './agent/agent.ts'
export { loadConfig, type AgentConfig, type ConfigSources } from './agent/config.ts'
export { startGateway, startSidecar, type Proxy, type ProxyOptions } from './proxy/proxy.ts'
