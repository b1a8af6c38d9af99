/**
 * The two ways to load a target. Closed loop: each connection sends its next request when it has its answer, so a slow target gets
 * fewer. Open loop: requests come at a rate whatever the target does, and each one's time runs from when it was due, also while it
 * waited for a connection; so a stall is seen by all the requests it held up (no coordinated omission).
 */
import { arrivals, nowMs } from './arrivals.ts'
import { Connection, type Target } from './connection.ts'
import { Recorder, Samples, type LoadReport } from './recorder.ts'

export interface Wish {
  connections: number
  durationMs: number
}

/** How long answers are waited for once nothing new is due. */
const settleMs = 5000
/** After a connection that was refused: a target that is down must not be a busy loop. */
const pauseMs = 100

export async function closedLoop(target: Target, { connections, durationMs }: Wish): Promise<LoadReport> {
  const recorder = new Recorder()
  const startMs = nowMs()
  const endMs = startMs + durationMs
  const all = Array.from({ length: connections }, () => new Connection(target))
  await Promise.all(
    all.map(
      connection =>
        new Promise<void>(resolve => {
          const next = (): void => {
            const sentMs = nowMs()
            if (sentMs >= endMs) return resolve()
            connection.send(outcome => {
              recorder.record(outcome, nowMs() - sentMs)
              if (outcome === 'connect') setTimeout(next, pauseMs)
              else next()
            })
          }
          next()
        }),
    ),
  )
  const seconds = (nowMs() - startMs) / 1000
  all.forEach(each => each.close())
  return recorder.report({ mode: 'closed', connections, seconds })
}

/** `source` says when requests are due; tests give their own. */
export async function openLoop(
  target: Target,
  { connections, durationMs, rate }: Wish & { rate: number },
  source: typeof arrivals = arrivals,
): Promise<LoadReport> {
  const recorder = new Recorder()
  const late = new Samples()
  const idle = Array.from({ length: connections }, () => new Connection(target))
  const all = [...idle]
  const waiting: number[] = []
  let first = 0
  let open = 0
  let settled = (): void => undefined

  const send = (connection: Connection, intendedMs: number): void => {
    open += 1
    connection.send(outcome => {
      recorder.record(outcome, nowMs() - intendedMs)
      open -= 1
      if (outcome === 'connect') setTimeout(() => take(connection), pauseMs)
      else take(connection)
    })
  }
  const take = (connection: Connection): void => {
    if (first < waiting.length) {
      send(connection, waiting[first]!)
      first += 1
      return
    }
    waiting.length = first = 0
    idle.push(connection)
    if (open === 0) settled()
  }

  await source({ rate, durationMs }, intendedMs => {
    late.add(nowMs() - intendedMs)
    const connection = idle.pop()
    if (connection) send(connection, intendedMs)
    else waiting.push(intendedMs)
  })
  if (open > 0 || first < waiting.length) {
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, settleMs)
      settled = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
  const unanswered = open + (waiting.length - first)
  for (let i = 0; i < unanswered; i++) recorder.record('unanswered', 0)
  all.forEach(each => each.close())
  return recorder.report({ mode: 'open', connections, rate, seconds: durationMs / 1000, lateMs: late.latency() })
}
