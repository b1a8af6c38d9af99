/**
 * The eight hex digits that a chain compiled with overrides carries, which Consul's cluster names begin with: the start of the FNV-1 hash
 * that Go's hashstructure makes of the overrides that mattered.
 */
const prime = 1_099_511_628_211n
const mask = (1n << 64n) - 1n

export interface Customization {
  meshGatewayMode: string
  protocol: string
  connectTimeoutMs: number
}

export function customizationHash({ meshGatewayMode, protocol, connectTimeoutMs }: Customization): string {
  const gateway = structure('MeshGatewayConfig', [['Mode', ofText(meshGatewayMode)]])
  const whole = structure('', [
    ['OverrideMeshGateway', gateway],
    ['OverrideProtocol', ofText(protocol)],
    ['OverrideConnectTimeout', fnv(bytesOf(BigInt(Math.round(connectTimeoutMs * 1e6))))],
  ])
  return whole.toString(16).slice(0, 8)
}

/** The members in no order: each is the hash of its name and its value. */
function structure(name: string, members: readonly [string, bigint][]): bigint {
  let hash = ofText(name)
  for (const [member, value] of members) hash ^= fnv([...bytesOf(ofText(member)), ...bytesOf(value)])
  return hash
}

function ofText(text: string): bigint {
  return fnv([...new TextEncoder().encode(text)])
}

function bytesOf(value: bigint): number[] {
  return Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn))
}

function fnv(bytes: readonly number[]): bigint {
  let hash = 14_695_981_039_346_656_037n
  for (const byte of bytes) hash = ((hash * prime) & mask) ^ BigInt(byte)
  return hash
}
