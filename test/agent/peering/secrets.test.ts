/** The table of secrets (spec/peering-wire.md 4.1), row by row. */
import t from 'tap'
import { authorize, exchange, withToken, type AcceptorSecrets } from '../../../src/agent/peering/secrets.ts'

const fresh = (): AcceptorSecrets => withToken(undefined, 'e1')
const connected = (): AcceptorSecrets => authorize(exchange(fresh(), 'e1', 's1')!, 's1')!.secrets

void t.test('a token is spent once, and only with its own secret', async t => {
  const secrets = fresh()
  t.equal(exchange(secrets, 'other', 's1'), undefined)
  const spent = exchange(secrets, 'e1', 's1')
  t.ok(spent)
  t.equal(exchange(spent, 'e1', 's2'), undefined)
})

void t.test('an empty secret opens nothing, also where none is left', async t => {
  t.equal(exchange(undefined, '', 's'), undefined)
  t.equal(exchange({ role: 'acceptor' }, '', 's'), undefined)
  t.equal(exchange(fresh(), '', 's'), undefined)
  t.equal(authorize({ role: 'acceptor' }, ''), undefined)
  t.equal(authorize(connected(), ''), undefined)
})

void t.test('a new token kills the unused one before it and disturbs no stream', async t => {
  const renewed = withToken(connected(), 'e2')
  t.equal(exchange(renewed, 'e1', 's9'), undefined)
  t.match(authorize(renewed, 's1'), { promoted: false })
  t.ok(exchange(renewed, 'e2', 's9'))
})

void t.test('the old active secret opens streams until the pending one is used', async t => {
  const both = exchange(withToken(connected(), 'e2'), 'e2', 's2')!
  t.match(authorize(both, 's1'), { promoted: false })
  const promoted = authorize(both, 's2')
  t.equal(promoted?.promoted, true)
  t.equal(authorize(promoted!.secrets, 's1'), undefined)
  t.match(authorize(promoted!.secrets, 's2'), { promoted: false })
})

void t.test('a second exchange drops the pending secret of the first', async t => {
  const twice = exchange(withToken(exchange(fresh(), 'e1', 's1'), 'e2'), 'e2', 's2')!
  t.equal(authorize(twice, 's1'), undefined)
  t.ok(authorize(twice, 's2'))
})

void t.test('no secret is kept in the clear', async t => {
  t.notMatch(JSON.stringify([fresh(), connected()]), /e1|s1/)
})
