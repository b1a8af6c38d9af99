/** What routes and splits do to headers, and what they may not touch. */
import t from 'tap'
import { applyHeaderEdit, compileHeaderEdit, type EditableHead } from '../../src/mesh/header-edit.ts'
import type { HeaderModifiers } from '../../src/mesh/entry-members.ts'

class Head implements EditableHead {
  lines: string[]

  constructor(...lines: string[]) {
    this.lines = lines
  }

  remove(name: string): void {
    this.lines = this.lines.filter(line => !line.startsWith(`${name}: `))
  }

  append(name: string, value: string): void {
    this.lines.push(`${name}: ${value}`)
  }
}

function edited(modifiers: HeaderModifiers, ...lines: string[]): { lines: string[]; problems: string[] } {
  const problems: string[] = []
  const edit = compileHeaderEdit(modifiers, problems)
  const head = new Head(...lines)
  if (edit !== undefined) applyHeaderEdit(edit, head)
  return { lines: head.lines, problems }
}

t.test('headers are removed, then added to, then set', async t => {
  t.same(edited({ add: { 'X-A': '1' }, set: { 'X-S': '2' }, remove: ['X-R'] }, 'x-a: 0', 'x-s: 0', 'x-r: 0', 'x-k: 0'), {
    lines: ['x-a: 0', 'x-k: 0', 'x-a: 1', 'x-s: 2'],
    problems: [],
  })
  t.same(edited({ add: { a: '1' }, set: { A: '2' } }, 'a: 0').lines, ['a: 2'], 'of both only what is set remains')
  t.same(edited({ add: { a: '1' }, remove: ['a'] }, 'a: 0').lines, ['a: 1'])
})

t.test('nothing to do is nothing', async t => {
  t.equal(compileHeaderEdit(undefined, []), undefined)
  t.equal(compileHeaderEdit({}, []), undefined)
})

t.test('framing, connection and identity are not theirs to change, nor is what is no header', async t => {
  const names = [
    'Host',
    'connection',
    'Transfer-Encoding',
    'content_length',
    'http2-settings',
    'upgrade',
    'X-Forwarded-Client-Cert',
    ':path',
    'a b',
    '',
  ]
  for (const name of names) {
    for (const modifiers of [{ add: { [name]: 'x' } }, { set: { [name]: 'x' } }, { remove: [name] }]) {
      const { lines, problems } = edited(modifiers, 'host: h')
      t.same({ lines, problems: problems.length }, { lines: ['host: h'], problems: 1 }, `${name} ${Object.keys(modifiers)[0]}`)
    }
  }
  for (const value of ['a\r\nx: y', 'a\nb', 'a\0b']) t.same(edited({ set: { a: value } }).lines, [], JSON.stringify(value))
  t.same(edited({ set: { a: ' \tx y\t ', b: '  ' } }).lines, ['a: x y', 'b: '], 'blanks around a value are no part of it')
  t.same(edited({ set: { a: 'é' } }).lines, ['a: \u00c3\u00a9'], 'a text goes out as bytes')
})
