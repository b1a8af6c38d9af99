/** Choosing an endpoint: one pick of every policy among 100 and 1,000 endpoints, and what laying out its tables takes when one changes. */
import { balancePolicies, defaultBalance, defaultOutlierLimits, HashPolicy, type Balance } from '../../src/mesh/balance/config.ts'
import { mix } from '../../src/mesh/balance/hash.ts'
import { Outlier } from '../../src/mesh/balance/outlier.ts'
import { pickerOf } from '../../src/mesh/balance/policy.ts'
import { RequestHash, type Affinity } from '../../src/mesh/balance/request-hash.ts'
import type { Endpoint } from '../../src/mesh/snapshot.ts'
import type { Case } from './measure.ts'

const sizes = [100, 1000] as const

function endpointsOf(count: number, weighted: boolean): Endpoint[] {
  const weight = (i: number) => (weighted ? 1 + (i % 7) : 1)
  return Array.from({ length: count }, (_, i) => ({
    id: `e${i}`,
    address: `10.0.${i >> 8}.${i & 255}`,
    port: 20_000,
    weight: weight(i),
    healthy: true,
  }))
}

function picking(count: number, policy: Balance['policy']): Case['run'] {
  const picker = pickerOf(endpointsOf(count, true), { ...defaultBalance, policy })
  const { loads } = picker
  return times => {
    let ports = 0
    for (let i = 0; i < times; i++) {
      const endpoint = picker.pick(undefined, mix(i))!
      ports += endpoint.port
      if (loads === undefined) continue
      const load = loads.of(endpoint)!
      load.begin()
      load.end(i & 15, false, i)
    }
    return ports
  }
}

function laying(count: number, policy: Balance['policy']): Case['run'] {
  const endpoints = endpointsOf(count, true)
  return times => {
    let size = 0
    for (let i = 0; i < times; i++) size += pickerOf(endpoints, { ...defaultBalance, policy }).size
    return size
  }
}

/** As a request does it: nobody is left out, or some are. */
function passingOver(count: number, ejected: number): Case['run'] {
  const endpoints = endpointsOf(count, false)
  const picker = pickerOf(endpoints, defaultBalance)
  const outlier = new Outlier(defaultOutlierLimits)
  outlier.update(defaultOutlierLimits, new Set(endpoints.map(each => `${each.address}:${each.port}`)))
  for (const each of endpoints.slice(0, ejected)) outlier.failed(`${each.address}:${each.port}`)
  const tried = new Set<string>()
  return times => {
    let ports = 0
    for (let i = 0; i < times; i++) ports += outlier.pick(picker, tried, 1000)!.port
    return ports
  }
}

function hashing(policies: HashPolicy[]): Case['run'] {
  const hash = new RequestHash(policies)
  const request = {
    target: '/api/v1/orders/8231?expand=items&limit=20&user=3f2c1c9e',
    get: (name: string) => (name === 'cookie' ? 'theme=dark; lang=en; sid=3f2c1c9e7c0e4b27' : '3f2c1c9e-7c0e-4b27-9f7e-0d6a5d6f4b1a'),
  }
  const into: Affinity = { hash: undefined, setCookie: '' }
  return times => {
    let sum = 0
    for (let i = 0; i < times; i++) {
      hash.of(request, '10.0.0.1', into)
      sum += into.hash!
    }
    return sum
  }
}

const policyOf = (field: HashPolicy['field'], name: string) => [HashPolicy.parse({ field, name })]

export const cases: Case[] = [
  ...sizes.flatMap(count => balancePolicies.map(policy => ({ name: `pick: ${policy}, ${count} endpoints`, run: picking(count, policy) }))),
  ...sizes.flatMap(count => [
    { name: `pick: nobody ejected, ${count} endpoints`, run: passingOver(count, 0) },
    { name: `pick: a tenth unreachable, ${count} endpoints`, run: passingOver(count, count / 10) },
  ]),
  ...sizes.flatMap(count =>
    balancePolicies.map(policy => ({ name: `lay out: ${policy}, ${count} endpoints`, run: laying(count, policy) })),
  ),
  { name: 'request hash: header', run: hashing(policyOf('header', 'x-user')) },
  { name: 'request hash: cookie', run: hashing(policyOf('cookie', 'sid')) },
  { name: 'request hash: parameter', run: hashing(policyOf('query_parameter', 'user')) },
]
