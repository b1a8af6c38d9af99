/** Sets put together from what was encoded before: the same bytes as made anew, with as little encoded as may be. */
import * as fc from 'fast-check'
import t from 'tap'
import { encodeSet, type EncodedSet } from '../../../src/agent/peering/encoded-set.ts'
import { SharedNodeIds } from '../../../src/agent/peering/shared-node-ids.ts'
import type { CheckServiceNode } from '../../../src/mesh/service.ts'

const instance = (node: string, id: string): CheckServiceNode => ({ node: { node, id }, checks: [] }) as unknown as CheckServiceNode
const encode = ({ node }: CheckServiceNode): Uint8Array => Buffer.from(`<${node.node}>`)

/** Of a few instances, some of them on nodes with the same id. */
const pool = ['a', 'bb', 'ccc', 'dddd', 'eeeee', 'ffffff'].map((name, i) => instance(name, ['', 'x', 'x', 'y', 'x', 'y'][i]!))
const history = fc.array(fc.subarray(pool), { minLength: 1, maxLength: 12 })

void t.test('whatever comes and goes, the set is that of its instances', async () => {
  fc.assert(
    fc.property(history, sets => {
      let before: EncodedSet | undefined
      for (const instances of sets) {
        before = encodeSet(before, instances, encode)
        if (before.value.toString() !== instances.map(each => `<${each.node.node}>`).join('')) return false
        if (before.ends.some((end, i) => !before!.value.subarray(0, end).toString().endsWith(`<${instances[i]!.node.node}>`))) return false
      }
      return true
    }),
  )
})

void t.test('of 10,000 instances the one that changed is encoded', async t => {
  const instances = Array.from({ length: 10_000 }, (_, i) => instance(`n${i}`, ''))
  const before = encodeSet(undefined, instances, encode)
  const encoded: string[] = []
  const after = encodeSet(before, instances.with(5000, instance('other', '')), each => {
    encoded.push(each.node.node)
    return encode(each)
  })
  t.same(encoded, ['other'])
  t.equal(after.value.length, before.value.length + 'other'.length - 'n5000'.length)
})

void t.test('an id is shared while more than one node has it, however the sets came about', async () => {
  fc.assert(
    fc.property(history, sets => {
      const shared = new SharedNodeIds()
      let before: readonly CheckServiceNode[] = []
      for (const instances of sets) {
        const was = [...shared.ids].toSorted().join()
        const flipped = shared.replace(before, instances)
        before = instances
        const nodes = (id: string): number => new Set(instances.filter(each => each.node.id === id).map(each => each.node.node)).size
        const is = ['x', 'y'].filter(id => nodes(id) > 1).join()
        if ([...shared.ids].toSorted().join() !== is || (was !== is && !flipped)) return false
      }
      return true
    }),
  )
})
