#!/usr/bin/env node
/**
 * A protoc plugin around ts-proto's (buf.gen.yaml). It changes one thing: a map entry writes its key and its value even when they
 * are empty, as Go does and as real Consul's nodes have them (`consul-network-segment: ""`), so that bytes survive a round trip.
 */
import { spawnSync } from 'node:child_process'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { CodeGeneratorResponseSchema } from '@bufbuild/protobuf/wkt'
import { readFileSync, writeSync } from 'node:fs'

const plugin = spawnSync(process.execPath, ['node_modules/ts-proto/protoc-gen-ts_proto'], {
  input: readFileSync(0),
  maxBuffer: 64 * 1024 * 1024,
})
process.stderr.write(plugin.stderr)
if (plugin.status !== 0) process.exit(plugin.status ?? 1)

const response = fromBinary(CodeGeneratorResponseSchema, plugin.stdout)
const entryEncode =
  /(export const \w+Entry: MessageFns<\w+> = \{\n {2}encode\([^)]*\)[^{]*\{\n)([\s\S]*?)( {4}if \(message\._unknownFields)/g
const guard = / {4}if \(message\.(?:key|value) !== (?:""|0|false)\) \{\n {2}( {4}.*\n) {4}\}\n/g
const file = response.file.map(each => ({
  ...each,
  content: each.content?.replace(entryEncode, (_, head, body, tail) => head + body.replace(guard, '$1') + tail),
}))
const output = toBinary(CodeGeneratorResponseSchema, create(CodeGeneratorResponseSchema, { ...response, file }))
for (let at = 0; at < output.length;) at += writeSync(1, output, at)
