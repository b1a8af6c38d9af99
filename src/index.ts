/** The public face: what a program that embeds isthmus may use. Everything else may change without notice. */
export { startAgent, type Agent, type AgentOptions } from './agent/agent.ts'
export { loadConfig, type AgentConfig, type ConfigSources } from './agent/config.ts'
export { createLogger, silentLogger, type Logger } from './lib/log.ts'
export { startGateway } from './proxy/mesh-gateway.ts'
export type { ProxyOptions, RunningProxy } from './proxy/running-proxy.ts'
export { startSidecar, type RunningSidecar, type SidecarOptions } from './proxy/sidecar.ts'
