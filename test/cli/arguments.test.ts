// Consul's spelling of flags, as a table.
import { Command } from 'commander'
import t from 'tap'
import { normaliseArguments } from '../../src/cli/arguments.ts'
import { commands } from '../../src/cli/commands.ts'
import { processContext } from '../../src/cli/context.ts'

const program = new Command('isthmus')
program.command('config').command('write').option('--cas').option('--modify-index <n>').option('--http-addr <address>')
program.command('lock').option('--n <n>').option('--shell').option('--no-shell').argument('[prefix]').argument('[child...]')

void t.test("flags in Consul's spelling become commander's", async t => {
  const cases: [string[], string[]][] = [
    [['-http-addr=x:1'], ['--http-addr=x:1']],
    [
      ['config', 'write', '-http-addr', 'x:1', 'f.json'],
      ['config', 'write', '--http-addr=x:1', 'f.json'],
    ],
    [
      ['config', 'write', '--http-addr', 'x:1', '-'],
      ['config', 'write', '--http-addr=x:1', '-'],
    ],
    [
      ['config', 'write', '-cas', '-modify-index=7', '-'],
      ['config', 'write', '--cas', '--modify-index=7', '-'],
    ],
    [
      ['config', 'write', '-cas=true', '-'],
      ['config', 'write', '--cas', '-'],
    ],
    [
      ['config', 'write', '-cas=FALSE', '-'],
      ['config', 'write', '-'],
    ],
    [
      ['config', 'write', '-cas=maybe'],
      ['config', 'write', '--cas=maybe'],
    ],
    [
      ['config', 'write', '-modify-index', '-1'],
      ['config', 'write', '--modify-index=-1'],
    ],
    [
      ['config', 'write', '-nope', 'x'],
      ['config', 'write', '--nope', 'x'],
    ],
    [['-h'], ['-h']],
    [
      ['config', 'write', 'a', '--', '-value', '-x'],
      ['config', 'write', '--', 'a', '-value', '-x'],
    ],
    [
      ['config', 'write', 'key', '-value', '-cas', '-5'],
      ['config', 'write', '--cas', '--', 'key', '-value', '-5'],
    ],
    [
      ['config', 'write', 'write', '-', 'x'],
      ['config', 'write', 'write', '-', 'x'],
    ],
    [
      ['lock', '-n', '2', '-shell=false', 'p', 'sh', '-n', '-c', 'x', '--', '-shell'],
      ['lock', '--n=2', '--no-shell', '--', 'p', 'sh', '-n', '-c', 'x', '--', '-shell'],
    ],
    [
      ['lock', '-n=2', 'p'],
      ['lock', '--n=2', 'p'],
    ],
    [['-http-addr=a=b\nc'], ['--http-addr=a=b\nc']],
  ]
  for (const [given, expected] of cases) t.same(normaliseArguments(given, program), expected, given.join(' '))
})

void t.test('each command is found in the file that the table names', async t => {
  for (const { names, load } of commands) {
    const own = new Command()
    const register = await load()
    register(own, processContext())
    t.same(
      own.commands.map(each => each.name()),
      names,
    )
  }
})
