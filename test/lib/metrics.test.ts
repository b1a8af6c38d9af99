// One registry for each thing that is started, so that several run in one process.
import t from 'tap'
import { Counter, createRegistry } from '../../src/lib/metrics.ts'

t.test('two registries in one process count apart and say whose they are', async t => {
  const [first, second] = [createRegistry('agent'), createRegistry('sidecar')]
  const make = (registers: [typeof first]) => new Counter({ name: 'isthmus_test_things_total', help: 'things', registers })
  const counter = make([first])
  make([second])
  counter.inc(3)
  t.match(await first.metrics(), 'isthmus_test_things_total{component="agent"} 3')
  t.match(await second.metrics(), 'isthmus_test_things_total{component="sidecar"} 0')
  t.match(await second.metrics(), /^process_cpu_seconds_total\{component="sidecar"\}/m)
})
