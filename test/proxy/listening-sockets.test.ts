// Listening sockets by name: taken over only where they should be, handed on with their files, and never taken from somebody who answers.
import { fork } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import { environmentFor, InheritedSockets, takeInherited } from '../../src/proxy/inherited.ts'
import { Listener } from '../../src/proxy/listener.ts'
import { ListeningSockets } from '../../src/proxy/listening-sockets.ts'
import { freePorts } from '../support/free-ports.ts'
import { until } from '../support/processes.ts'

const answering = (text: string) => () => createServer(socket => void socket.on('error', () => {}).end(text))

function heard(at: { port: number } | { path: string }): Promise<string> {
  return new Promise(resolve => {
    let text = ''
    const socket = connect({ host: '127.0.0.1', ...at })
    socket.on('data', chunk => (text += chunk.toString()))
    socket.on('error', ({ code }: NodeJS.ErrnoException) => resolve(code!))
    socket.on('end', () => resolve(text))
  })
}

const portOf = (server: Server) => (server.address() as AddressInfo).port

const told = process.argv[2]
if (told !== undefined) {
  // The child of the last test: takes over what it was given, says what it has, and answers until it is told to end.
  const { unixPath, port, otherPort } = JSON.parse(told) as { unixPath: string; port: number; otherPort: number }
  const inherited = takeInherited(process.env, process.pid, true)
  const sockets = new ListeningSockets(new InheritedSockets(inherited, true))
  await sockets.listen('tcp', { address: '127.0.0.1', port }, answering('child'))
  await sockets.listen('unix', { address: '', port: 0, path: unixPath }, answering('child'))
  // It was passed one of this name, but at another port.
  await sockets.listen('moved', { address: '127.0.0.1', port: otherPort }, answering('moved'))
  sockets.settled()
  process.on('message', () => {
    sockets.stop()
    process.exit()
  })
  process.send!([...sockets.descriptors().keys()])
} else {
  t.test('descriptors are believed of systemd for this process, and of a parent that talks to it', t => {
    const passed = { LISTEN_FDS: '2', LISTEN_FDNAMES: 'public:upstream a%3Ab' }
    const named = new Map([
      ['public', 3],
      ['upstream a:b', 4],
    ])
    for (const [env, hasParent, expected] of [
      [{ ...passed, LISTEN_PID: '77' }, false, named],
      [{ ...passed, LISTEN_PID: '78' }, true, new Map()],
      [passed, true, named],
      [passed, false, new Map()],
      [{ ...passed, LISTEN_FDS: '-1', LISTEN_PID: '77' }, false, new Map()],
      [{}, true, new Map()],
    ] as [Record<string, string>, boolean, Map<string, number>][]) {
      t.same(takeInherited(env, 77, hasParent), expected)
      t.same(env, {}, 'nothing is left for what is started later')
    }
    t.same(
      takeInherited({ ...environmentFor(['upstream ü:%', 'x']) }, 1, true),
      new Map([
        ['upstream ü:%', 3],
        ['x', 4],
      ]),
    )
    t.end()
  })

  t.test('what is passed and is no listening socket is not taken: a new one is bound', async t => {
    const [port] = (await freePorts(1)) as [number]
    for (const claimed of [{ fd: 999_999 }, { fd: 0.5 }, 'nonsense']) {
      const sockets = new ListeningSockets({ claim: () => Promise.resolve(claimed), settled() {}, shared: false, succeeds: false })
      await sockets.listen('public', { address: '127.0.0.1', port }, answering('own'))
      t.equal(await heard({ port }), 'own')
      sockets.stop()
      t.equal(await heard({ port }), 'ECONNREFUSED')
    }
  })

  t.test('a file is replaced when nobody answers on it, and left alone when somebody does', async t => {
    const dir = mkdtempSync(join(tmpdir(), 'isthmus-'))
    t.teardown(() => rmSync(dir, { recursive: true, force: true }))
    const socketPath = join(dir, 'up.sock')
    const listener = (sockets?: ListeningSockets) =>
      new Listener({
        at: { address: '', port: 0, socketPath, socketMode: '0660' },
        purpose: 'upstream',
        logger: silentLogger(),
        ...(sockets ? { sockets } : {}),
        onConnection: socket => void socket.on('error', () => {}).end('first'),
      })
    const first = listener()
    await first.tried()
    t.equal(await heard({ path: socketPath }), 'first')
    const second = listener()
    t.teardown(() => second.close())
    await second.tried()
    t.equal(second.listening, false)
    t.equal(await heard({ path: socketPath }), 'first', 'it still has its file')
    first.close()
    t.equal(existsSync(socketPath), false, 'what is closed is gone')
    await until('the second one has it then', () => Promise.resolve(second.listening), 5000)
    t.same(readdirSync(dir), ['up.sock'], 'and nothing else lies about')
  })

  t.test('handed to another process, nothing is lost: TCP and unix', async t => {
    const dir = mkdtempSync(join(tmpdir(), 'isthmus-'))
    t.teardown(() => rmSync(dir, { recursive: true, force: true }))
    const unixPath = join(dir, 'up.sock')
    const sockets = new ListeningSockets()
    const tcp = await sockets.listen('tcp', { address: '127.0.0.1', port: 0 }, answering('parent'))
    await sockets.listen('unix', { address: '', port: 0, path: unixPath }, answering('parent'))
    await sockets.listen('spare', { address: '127.0.0.1', port: 0 }, answering('parent'))
    await sockets.listen('moved', { address: '127.0.0.1', port: 0 }, answering('parent'))
    const port = portOf(tcp)
    const [otherPort] = (await freePorts(1)) as [number]
    const descriptors = sockets.descriptors()
    const child = fork(fileURLToPath(import.meta.url), [JSON.stringify({ unixPath, port, otherPort })], {
      env: { ...process.env, ...environmentFor([...descriptors.keys()]) },
      stdio: ['ignore', 'inherit', 'inherit', ...descriptors.values(), 'ipc'],
    })
    const ended = new Promise(resolve => child.once('exit', resolve))
    // tap, which the child loads too, says things of its own.
    const taken = new Promise(resolve => child.on('message', message => Array.isArray(message) && resolve(message)))
    t.same(await taken, ['tcp', 'unix', 'moved'])
    sockets.handOver()
    t.equal(await heard({ port }), 'child')
    t.equal(await heard({ path: unixPath }), 'child')
    t.equal(await heard({ port: otherPort }), 'moved')
    child.send('end')
    await ended
    t.equal(existsSync(unixPath), false, 'the last one removes the file')
    t.equal(await heard({ port }), 'ECONNREFUSED')
  })
}
