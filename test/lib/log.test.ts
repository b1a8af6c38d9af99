// Logs: one JSON object a line, and no secret in the clear.
import t from 'tap'
import { createLogger, logLevel, silentLogger } from '../../src/lib/log.ts'

function lines(level: string | undefined, write: (logger: ReturnType<typeof createLogger>) => void): Record<string, unknown>[] {
  const out: Record<string, unknown>[] = []
  const stream = { write: (line: string) => void out.push(JSON.parse(line) as Record<string, unknown>) }
  write(createLogger(level === undefined ? { stream } : { level, stream }))
  return out
}

t.test('a line has a level by name, a time and its fields', t => {
  const [line] = lines(undefined, logger => logger.info({ peer: 'east' }, 'peering established'))
  t.match(line, { level: 'info', time: /^\d{4}-\d\d-\d\dT/, peer: 'east', msg: 'peering established' })
  t.notOk('pid' in line!)
  t.end()
})

t.test('secrets never reach a line, at any depth that the program logs', t => {
  const secret = 'hunter2'
  const names = [
    'token',
    'secret',
    'privateKey',
    'privateKeyPem',
    'peeringToken',
    'establishmentSecret',
    'streamSecret',
    'authorization',
    'x-consul-token',
  ]
  for (const name of names) {
    const written = lines('trace', logger => {
      logger.info({ [name]: secret }, 'one')
      logger.info({ request: { [name]: secret } }, 'two')
      logger.info({ request: { headers: { [name]: secret } } }, 'three')
      logger.child({ [name]: secret }).info('child')
    })
    t.equal(written.length, 4)
    t.notMatch(JSON.stringify(written), secret, name)
    t.match(JSON.stringify(written), '[secret]')
  }
  t.end()
})

t.test('levels are Consul’s names', t => {
  t.same(['TRACE', 'Debug', 'info', 'WARN', 'warning', 'ERR', 'error', 'off', 'loud', ''].map(logLevel), [
    'trace',
    'debug',
    'info',
    'warn',
    'warn',
    'error',
    'error',
    'silent',
    undefined,
    undefined,
  ])
  const seen = lines('warn', logger => {
    logger.info('quiet')
    logger.error('loud')
  })
  t.same(
    seen.map(line => line['msg']),
    ['loud'],
  )
  t.equal(silentLogger().isLevelEnabled('fatal'), false)
  t.end()
})
