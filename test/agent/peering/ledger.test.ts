/** The ledger: both ends fold the same messages to the same digest, whatever is lost shows in its slot, and little is hashed again. */
import * as fc from 'fast-check'
import t from 'tap'
import {
  applyList,
  differing,
  digestOf,
  entryOf,
  forget,
  keptBy,
  newLedger,
  note,
  slotOf,
  type Ledger,
} from '../../../src/agent/peering/ledger.ts'
import { slots } from '../../../src/wire/freshness.ts'
import { typeUrls } from '../../../src/wire/peer-stream.ts'

type Said = { kind: 'service'; id: string; value: string } | { kind: 'list'; names: string[] } | { kind: 'bundle'; value: string }

function fold(ledger: Ledger, said: Said): void {
  if (said.kind === 'service') note(ledger, typeUrls.service, said.id, Buffer.from(said.value))
  else if (said.kind === 'bundle') note(ledger, typeUrls.bundle, 'roots', Buffer.from(said.value))
  else {
    note(ledger, typeUrls.list, 'list', Buffer.from(said.names.join('\n')))
    applyList(ledger, keptBy(said.names))
  }
}

const name = fc.constantFrom('web', 'Web', 'web-sidecar-proxy', 'api', 'api-sidecar-proxy', 'db', 'straße')
const said: fc.Arbitrary<Said> = fc.oneof(
  fc.record({ kind: fc.constant('service' as const), id: name, value: fc.constantFrom('', '1', '2') }),
  fc.record({ kind: fc.constant('list' as const), names: fc.uniqueArray(fc.constantFrom('web', 'api', 'db')) }),
  fc.record({ kind: fc.constant('bundle' as const), value: fc.constantFrom('a', 'b') }),
)

void t.test('the same messages make the same digest; a difference shows where it is, and is gone once it is said again', async () => {
  fc.assert(
    fc.property(fc.array(said, { maxLength: 30 }), fc.nat(), (all, at) => {
      const [one, other, lossy] = [newLedger(), newLedger(), newLedger()]
      for (const [i, each] of all.entries()) {
        fold(one, each)
        fold(other, each)
        // A digest in between must change nothing.
        if (i % 3 === 0) digestOf(one)
        if (i !== at % all.length) fold(lossy, each)
      }
      if (differing(digestOf(one), digestOf(other)).length > 0) return false
      const lost = all[at % (all.length || 1)]
      const wrong = differing(digestOf(one), digestOf(lossy))
      if (lost?.kind !== 'service') return true
      return wrong.every(slot => slot === slotOf(typeUrls.service, lost.id))
    }),
  )
})

void t.test('what is forgotten, changed or deleted differs', async t => {
  const [a, b] = [newLedger(), newLedger()]
  for (const ledger of [a, b]) for (const id of ['web', 'api']) note(ledger, typeUrls.service, id, Buffer.from(id))
  t.same(differing(digestOf(a), digestOf(b)), [])
  forget(b, typeUrls.service, 'WEB')
  t.same(differing(digestOf(a), digestOf(b)), [slotOf(typeUrls.service, 'web')])
  note(b, typeUrls.service, 'web', new Uint8Array(0))
  t.same(differing(digestOf(a), digestOf(b)), [slotOf(typeUrls.service, 'web')], 'a deletion is something that was said')
  t.equal(entryOf(b, typeUrls.service, 'web')?.empty, true)
  note(b, typeUrls.bundle, 'roots', Buffer.from('x'))
  t.same(differing(digestOf(a), digestOf(b)), [slotOf(typeUrls.service, 'web'), slots.bundle])
})

void t.test('after one change among 20,000 services only its slot is hashed again', async t => {
  const ledger = newLedger()
  for (let i = 0; i < 20_000; i += 1) note(ledger, typeUrls.service, `service-${i}`, Buffer.from(String(i)))
  const before = Buffer.from(digestOf(ledger))
  note(ledger, typeUrls.service, 'service-7', Buffer.from('other'))
  t.same([...ledger.changed], [slotOf(typeUrls.service, 'service-7')])
  t.same(differing(before, digestOf(ledger)), [slotOf(typeUrls.service, 'service-7')])
  t.equal(ledger.changed.size, 0)
  const sizes = Array.from(ledger.slots.values(), entries => entries.size)
  t.ok(Math.max(...sizes) < 60, `names are spread: ${Math.max(...sizes)} in the fullest slot`)
})
