// Expected failures carry a code; anything thrown has a message.
import t from 'tap'
import { MeshError, messageOf } from '../../src/lib/errors.ts'

t.test('an error keeps its code, its message and its cause', t => {
  const cause = new Error('disk full')
  const error = new MeshError('unavailable', 'cannot write; free some space', { cause })
  t.ok(error instanceof Error)
  t.same([error.name, error.code, error.message, error.cause], ['MeshError', 'unavailable', 'cannot write; free some space', cause])
  t.end()
})

t.test('anything that was thrown has a message', t => {
  t.equal(messageOf(new TypeError('no')), 'no')
  t.equal(messageOf('text'), 'text')
  t.equal(messageOf(undefined), 'undefined')
  t.end()
})
