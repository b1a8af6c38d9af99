/** GET /v1/isthmus/openapi.json: the route table as an OpenAPI 3.1 document. It is made of the rows that serve, once for each door. */
import { wireSchema } from '../../lib/wire-schema.ts'
import { parameters, type ParameterName } from './parameters.ts'
import { consulVersion } from './parts.ts'
import { json } from './reply.ts'
import type { Route } from './route.ts'

const plainText = { 'text/plain': { schema: { type: 'string' } } }
const anything = { 'application/json': {}, ...plainText }
/** What a client may see beside success; most refusals of what a request means are 500 with their text, as in Consul. */
const failures: Record<string, string> = {
  '307': 'the path is not clean',
  '400': 'the request is malformed',
  '403': 'not allowed',
  '404': 'there is no such thing',
  '405': 'the path takes other methods',
  '409': 'somebody else was faster, or the transaction does not hold',
  '413': 'the request is too large',
  '429': 'the health is a warning, or there are too many requests',
  '431': 'too many headers',
  '500': 'what the request means is refused, in words',
  '503': 'not now, or the health is critical',
}

export function openApi(routes: readonly Route[]): unknown {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const route of routes) {
    const path = route.path.replace(/:(\w+)/g, '{$1}').replace('*', '{rest}')
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route, path) }
  }
  return {
    openapi: '3.1.0',
    info: { title: 'isthmus', version: consulVersion, description: 'The HTTP API of an isthmus agent: that of Consul, and peerings.' },
    paths,
  }
}

function operation(route: Route, path: string): unknown {
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(match => ({
    name: match[1]!,
    in: 'path',
    required: true,
    schema: { type: 'string', minLength: 1 },
  }))
  const takes: ParameterName[] = [
    ...(route.takes ?? []),
    'pretty',
    ...(route.agentLocal ? [] : (['dc', 'stale', 'consistent', 'leader', 'max_stale'] as const)),
  ]
  const inQuery = takes.map(name => {
    const { what, schema } = parameters[name]
    return { name, in: 'query', required: false, description: what, schema }
  })
  const listed = Object.fromEntries(Object.entries(failures).map(([status, description]) => [status, { description, content: anything }]))
  return {
    summary: route.what,
    operationId: `${route.method.toLowerCase()}${path.replaceAll(/[^A-Za-z0-9]+(.)?/g, (_whole, next: string | undefined) => next?.toUpperCase() ?? '')}`,
    parameters: [...inPath, ...inQuery],
    ...(route.body === undefined ? {} : { requestBody: bodyOf(route.body) }),
    responses: {
      '200': { description: 'done', content: { ...anything, 'application/octet-stream': {} } },
      ...listed,
      ...(isAcl(path) ? { '401': { description: 'ACLs are disabled', content: plainText } } : {}),
    },
  }
}

function isAcl(path: string): boolean {
  return path.startsWith('/v1/acl/') || path.includes('/agent/token/') || path.includes('/acl/')
}

function bodyOf(body: NonNullable<Route['body']>): unknown {
  if (body === 'bytes')
    return { required: false, content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } } }
  return { required: true, content: { 'application/json': { schema: wireSchema(body) } } }
}

/** The row that serves the document of all the others. */
export function openApiRoute(others: () => readonly Route[]): Route {
  let document: unknown
  return {
    method: 'GET',
    path: '/v1/isthmus/openapi.json',
    what: 'this API as an OpenAPI document',
    handler: () => json((document ??= openApi(others()))),
    agentLocal: true,
  }
}
