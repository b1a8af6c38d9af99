// Whoever issues tokens in this example: `node staff.js DIRECTORY` makes a key that nobody keeps, and writes the jwt-provider entry with
// its public half and two tokens signed with it: `admin.token` and `guest.token`.
import { generateKeyPairSync, sign } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

const [directory = '.'] = process.argv.slice(2)
const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const encode = value => Buffer.from(JSON.stringify(value)).toString('base64url')

const keys = Buffer.from(JSON.stringify({ keys: [publicKey.export({ format: 'jwk' })] })).toString('base64')
const entry = { Kind: 'jwt-provider', Name: 'staff', Issuer: 'staff.example', JSONWebKeySet: { Local: { JWKS: keys } } }
writeFileSync(join(directory, 'jwt-provider.json'), JSON.stringify(entry))

for (const role of ['admin', 'guest']) {
  const exp = Math.floor(Date.now() / 1000) + 3600
  const data = `${encode({ alg: 'ES256' })}.${encode({ iss: 'staff.example', role, exp })}`
  const signature = sign('sha256', Buffer.from(data), { key: privateKey, dsaEncoding: 'ieee-p1363' })
  writeFileSync(join(directory, `${role}.token`), `${data}.${signature.toString('base64url')}`)
}
