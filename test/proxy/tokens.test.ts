/** Signatures of tokens, by each kind of key; and the ways in which a token may lie about its own. */
import { createHmac, generateKeyPairSync, sign, constants, type KeyObject } from 'node:crypto'
import t from 'tap'
import { Tokens } from '../../src/proxy/tokens.ts'

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')

function signed(header: object, claims: object, make: (data: Buffer) => Buffer): string {
  const data = `${part(header)}.${part(claims)}`
  return `${data}.${make(Buffer.from(data)).toString('base64url')}`
}

function readerOf(keys: object[], more: object = {}): (token: string) => unknown {
  const jwks = Buffer.from(JSON.stringify({ keys })).toString('base64')
  const resource = { issuer: 'me', audiences: [], locations: [], clockSkewSeconds: 0, jwks, ...more }
  const tokens = new Tokens(new Map([['p', resource]]))
  return token => tokens.read({ headers: ['authorization', `Bearer ${token}`] }, () => tokens).claims('p')
}

const claims = { iss: 'me', sub: 'x' }
const publicJwk = (key: KeyObject, more: object = {}) => ({ ...key.export({ format: 'jwk' }), ...more })
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const secret = Buffer.from('0123456789abcdef0123456789abcdef')

t.test('each kind of key signs with its own algorithms', async t => {
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const ed = generateKeyPairSync('ed25519')
  const pss = { key: rsa.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST }
  const read = readerOf([
    publicJwk(rsa.publicKey),
    publicJwk(ec.publicKey),
    publicJwk(ed.publicKey),
    { kty: 'oct', k: secret.toString('base64url') },
  ])
  const made: [string, (data: Buffer) => Buffer][] = [
    ['RS256', data => sign('sha256', data, rsa.privateKey)],
    ['RS512', data => sign('sha512', data, rsa.privateKey)],
    ['PS256', data => sign('sha256', data, pss)],
    ['ES256', data => sign('sha256', data, { key: ec.privateKey, dsaEncoding: 'ieee-p1363' })],
    ['EdDSA', data => sign(null, data, ed.privateKey)],
    ['HS256', data => createHmac('sha256', secret).update(data).digest()],
  ]
  for (const [alg, make] of made) {
    t.same(read(signed({ alg }, claims, make)), claims, alg)
    t.equal(read(signed({ alg }, claims, data => make(Buffer.concat([data, Buffer.from('x')])))), undefined, `${alg} of something else`)
  }
})

t.test('a token cannot choose how it is checked', async t => {
  const jwk = publicJwk(rsa.publicKey, { kid: 'one', alg: 'RS256' })
  const read = readerOf([jwk])
  const rs256 = (data: Buffer) => sign('sha256', data, rsa.privateKey)
  t.same(read(signed({ alg: 'RS256', kid: 'one' }, claims, rs256)), claims)
  t.same(read(signed({ alg: 'RS256' }, claims, rs256)), claims, 'a token that names no key')
  t.equal(read(signed({ alg: 'RS256', kid: 'two' }, claims, rs256)), undefined, 'another key is named')
  t.equal(read(signed({ alg: 'none' }, claims, () => Buffer.alloc(0))), undefined, 'no signature')
  const pem = rsa.publicKey.export({ type: 'spki', format: 'pem' })
  for (const key of [pem, JSON.stringify(jwk), String(jwk.n)]) {
    const forged = signed({ alg: 'HS256', kid: 'one' }, claims, data => createHmac('sha256', key).update(data).digest())
    t.equal(read(forged), undefined, 'the public key is no secret')
  }
  t.equal(read(signed({ alg: 'RS512', kid: 'one' }, claims, data => sign('sha512', data, rsa.privateKey))), undefined, 'the key says RS256')
  t.equal(read(signed({ alg: ['RS256'] }, claims, rs256)), undefined)
})

t.test('what is remembered is judged by its time again and again', async t => {
  const now = Date.now() / 1000
  const read = readerOf([publicJwk(rsa.publicKey)])
  const until = (exp: number) => signed({ alg: 'RS256' }, { iss: 'me', exp }, data => sign('sha256', data, rsa.privateKey))
  const short = until(now + 1)
  t.same(read(short), { iss: 'me', exp: now + 1 })
  await new Promise(resolve => setTimeout(resolve, 1100))
  t.equal(read(short), undefined)
  t.equal(read(signed({ alg: 'RS256' }, { iss: 'you' }, data => sign('sha256', data, rsa.privateKey))), undefined)
})

t.test('keys that cannot be used vouch for nobody', async t => {
  const token = signed({ alg: 'RS256' }, claims, data => sign('sha256', data, rsa.privateKey))
  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 })
  const byWeak = signed({ alg: 'RS256' }, claims, data => sign('sha256', data, weak.privateKey))
  t.equal(readerOf([publicJwk(weak.publicKey)])(byWeak), undefined, 'too short')
  t.equal(readerOf([publicJwk(rsa.publicKey, { use: 'enc' })])(token), undefined, 'for something else')
  t.equal(readerOf([])(token), undefined)
  t.equal(readerOf([], { jwks: '' })(token), undefined, 'keys that are elsewhere')
  t.equal(readerOf([], { jwks: '%%%' })(token), undefined)
  t.equal(readerOf([], { jwks: Buffer.from('[1,2').toString('base64') })(token), undefined)
  t.same(readerOf([null as never, { kty: 'RSA' }, publicJwk(rsa.publicKey)])(token), claims, 'the others still count')
})

t.test('a secret that is none is known to everybody', async t => {
  const keyless = [{ kty: 'oct' }, { kty: 'oct', k: '' }, { kty: 'oct', k: '!!' }, { kty: 'oct', k: 5 }]
  for (const jwk of keyless) {
    const known = Buffer.from(String((jwk as { k?: unknown }).k), 'base64url')
    for (const key of [known, Buffer.alloc(0)]) {
      const forged = signed({ alg: 'HS256' }, claims, data => createHmac('sha256', key).update(data).digest())
      t.equal(readerOf([jwk])(forged), undefined, JSON.stringify(jwk))
    }
  }
})

t.test('the app gets the claims where the provider says so, and no token that is not to be forwarded', async t => {
  const jwks = Buffer.from(JSON.stringify({ keys: [publicJwk(rsa.publicKey)] })).toString('base64')
  const locations = [{ header: { name: 'X-Token' } }, { header: { name: 'X-Kept', forward: true } }]
  const resource = { issuer: 'me', audiences: [], locations, clockSkewSeconds: 0, jwks, forwarding: { header: 'x-claims', pad: true } }
  const tokens = new Tokens(new Map([['p', resource]]))
  const token = signed({ alg: 'RS256' }, claims, data => sign('sha256', data, rsa.privateKey))
  const passed = (...headers: string[]) => {
    const head = {
      headers,
      remove(name: string) {
        for (let i = headers.length - 2; i >= 0; i -= 2) if (headers[i] === name) headers.splice(i, 2)
      },
      append: (name: string, value: string) => void headers.push(name, value),
    }
    tokens.pass(
      tokens.read(head, () => tokens),
      head,
    )
    return headers
  }
  const told = ['x-claims', Buffer.from(JSON.stringify(claims)).toString('base64').replaceAll('+', '-').replaceAll('/', '_')]
  t.same(passed('x-token', token, 'a', 'b'), ['a', 'b', ...told])
  t.same(passed('x-kept', token), ['x-kept', token, ...told])
  t.same(passed('x-token', 'broken', 'x-claims', 'forged'), ['x-token', 'broken'], 'a caller cannot tell claims of his own')
  for (const header of ['content-length', 'host', 'transfer_encoding', 'x-forwarded-client-cert']) {
    const hostile = new Tokens(new Map([['p', { ...resource, forwarding: { header, pad: false } }]]))
    const headers = ['x-token', token, header, '5']
    const head = { headers, remove: (name: string) => void headers.push('removed', name), append: () => t.fail(header) }
    hostile.pass(
      hostile.read(head, () => hostile),
      head,
    )
    t.same(headers.slice(4), ['removed', 'x-token'], `${header} is not a provider's`)
  }
  t.equal(
    tokens.read({ headers: ['x-token', token] }, () => undefined).claims('p'),
    undefined,
    'a provider that is gone vouches for nobody',
  )
})
