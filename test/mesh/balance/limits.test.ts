// Circuit limits and the budget of retries: counts that are never exceeded, and given back.
import * as fc from 'fast-check'
import t from 'tap'
import { Circuit } from '../../../src/mesh/balance/circuit.ts'
import { defaultRetryLimits } from '../../../src/mesh/balance/config.ts'
import { RetryBudget } from '../../../src/mesh/balance/retry-budget.ts'

t.test('no count is ever over its limit, whatever begins and ends', t => {
  const limit = fc.integer({ min: 0, max: 4 })
  const steps = fc.array(fc.constantFrom('request', 'pending', 'connection', '-request', '-pending', '-connection'), { maxLength: 60 })
  fc.assert(
    fc.property(limit, limit, limit, steps, (maxConcurrentRequests, maxPendingRequests, maxConnections, list) => {
      const circuit = new Circuit({ maxConcurrentRequests, maxPendingRequests, maxConnections })
      const open = { request: 0, pending: 0, connection: 0 }
      const begin = {
        request: () => circuit.beginRequest(),
        pending: () => circuit.beginPending(),
        connection: () => circuit.beginConnection(),
      }
      const end = { request: () => circuit.endRequest(), pending: () => circuit.endPending(), connection: () => circuit.endConnection() }
      for (const step of list) {
        const what = step.replace('-', '') as keyof typeof open
        if (step === what) {
          const limitOf = { request: maxConcurrentRequests, pending: maxPendingRequests, connection: maxConnections }[what]
          if (begin[what]() !== open[what] < limitOf) return false
          if (open[what] < limitOf) open[what] += 1
        } else if (open[what] > 0) {
          end[what]()
          open[what] -= 1
        }
      }
      return circuit.requests === open.request && circuit.pending === open.pending && circuit.connections === open.connection
    }),
  )
  t.end()
})

t.test('who waits for a connection has it in turn, and who has given up is not asked', t => {
  const circuit = new Circuit({ maxConnections: 1, maxPendingRequests: 9, maxConcurrentRequests: 9 })
  const heard: string[] = []
  const waiter = (name: string) => () => void heard.push(name)
  const gone = waiter('gone')
  t.equal(circuit.beginConnection(), true)
  circuit.wait(gone)
  circuit.wait(waiter('first'))
  circuit.wait(waiter('second'))
  circuit.forget(gone)
  circuit.freed()
  t.same(heard, ['first'])
  circuit.endConnection()
  t.same(heard, ['first', 'second'])
  circuit.freed()
  t.equal(heard.length, 2)
  circuit.wait(waiter('last'))
  circuit.wait(waiter('again'), true)
  circuit.freed()
  t.equal(heard.at(-1), 'again', 'who was too late has the next turn')
  circuit.forget(gone)
  circuit.freed()
  t.equal(heard.at(-1), 'last')
  t.end()
})

t.test('retries are a share of what is under way, a few always, and end', t => {
  const budget = new RetryBudget(defaultRetryLimits)
  const begun = (requests: number, tries: number) => Array.from({ length: tries }, () => budget.begin(requests)).filter(Boolean).length
  t.equal(begun(1, 10), 3, 'three at least')
  t.equal(begun(100, 50), 17, 'twenty of a hundred')
  t.equal(budget.retrying, 20)
  budget.end()
  t.equal(begun(100, 50), 1)
  budget.update({ ...defaultRetryLimits, budgetMinimum: 0, budgetPercent: 0 })
  t.equal(begun(1000, 5), 0)
  t.end()
})
