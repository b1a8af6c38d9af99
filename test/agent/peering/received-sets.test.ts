/** A set that is received again is read as if for the first time, whatever has changed in it, and what has not is the same object. */
import * as fc from 'fast-check'
import t from 'tap'
import { ReceivedSets } from '../../../src/agent/peering/received-sets.ts'
import { ExportedService } from '../../../src/wire/gen/peerstream.ts'
import { CheckServiceNode as WireInstance } from '../../../src/wire/gen/service.ts'

function wire(node: string, port = 1, tags: string[] = []): WireInstance {
  return WireInstance.fromPartial({
    Node: { Node: node, Address: '10.0.0.1', Datacenter: 'dc1' },
    Service: { ID: 'web-1', Service: 'web', Port: port, Tags: tags },
    Checks: [{ Node: node, CheckID: 'web-1:overall-check', Status: 'passing', ServiceID: 'web-1', ServiceName: 'web' }],
  })
}

const encoded = (nodes: WireInstance[]): Buffer => Buffer.from(ExportedService.encode({ Nodes: nodes }).finish())
/** Names of one length are put in the place of each other. */
const encodedFor = (id: string, value: Buffer): Buffer => Buffer.from(value.toString('latin1').replaceAll('web', id), 'latin1')
const many = Array.from({ length: 500 }, (_, i) => wire(`n${i}`))

void t.test('of 500 instances the one that has changed is read, and no other', async t => {
  const sets = new ReceivedSets()
  const first = sets.read('web', encoded(many), 'east')
  const second = sets.read('web', encoded(many.with(100, wire('n100', 2))), 'east')
  if (!first.ok || !second.ok) throw new Error('refused')
  t.same(
    second.value.flatMap((each, i) => (each === first.value[i] ? [] : [[i, each.service.port]])),
    [[100, 2]],
  )
})

void t.test('no more than a number of instances is kept, those that came last', async t => {
  const sets = new ReceivedSets()
  const value = encoded(Array.from({ length: 5000 }, (_, i) => wire(`n${i}`)))
  const read = (id: string) => {
    const found = sets.read(id, encodedFor(id, value), 'east')
    if (!found.ok) throw new Error(found.message)
    return found.value[0]
  }
  const first = read('web')
  t.equal(read('web'), first)
  for (let i = 0; i < 6; i += 1) read(`we${i}`)
  t.not(read('web'), first)
})

void t.test('any series of sets is read as each of them alone is', t => {
  const names = Array.from({ length: 30 }, (_, i) => `n${i}`)
  // Names come twice, with another case too, and some instances are none.
  const instance = fc.record({ node: fc.constantFrom(...names, 'N3', ''), port: fc.constantFrom(1, 2, 70_000), filler: fc.nat(2) })
  const edit = fc.record({
    at: fc.nat(60),
    remove: fc.nat(3),
    add: fc.array(instance, { maxLength: 3 }),
    id: fc.constantFrom('web', 'web', 'Web'),
  })
  const tail = fc.option(fc.uint8Array({ maxLength: 3 }), { freq: 8 })
  fc.assert(
    fc.property(fc.array(fc.tuple(edit, tail), { maxLength: 12 }), edits => {
      const sets = new ReceivedSets()
      const sound = names.map(name => wire(name, 1, ['x'.repeat(300)]))
      let nodes = sound
      for (const [{ at, remove, add, id }, garbage] of edits) {
        const added = add.map(({ node, port, filler }) => wire(node, port, ['y'.repeat(filler)]))
        nodes = nodes.toSpliced(at % (nodes.length + 1), remove, ...added)
        const value = Buffer.concat([encoded(nodes), garbage ?? Buffer.alloc(0)])
        const read = (from: ReceivedSets): unknown => {
          try {
            return from.read(id, value, 'east')
          } catch {
            return 'no message'
          }
        }
        const [again, alone] = [JSON.stringify(read(sets)), JSON.stringify(read(new ReceivedSets()))]
        if (again !== alone) throw new Error(`${again}\nis not\n${alone}`)
        if (!alone.startsWith('{"ok":true')) nodes = sound
      }
    }),
    { numRuns: process.env.ISTHMUS_DEEP === '1' ? 5000 : 60 },
  )
  t.end()
})
