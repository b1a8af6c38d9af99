/** What every way of choosing an endpoint has in common. A picker is made with the plan and holds healthy endpoints only. */
import type { Endpoint } from '../snapshot.ts'

export interface Picker {
  /** How many healthy endpoints there are to choose from. */
  readonly size: number
  /** The next endpoint, or undefined where none is healthy. `skip` names those to pass over, such as the ejected or already tried. */
  pick(skip?: (endpoint: Endpoint) => boolean): Endpoint | undefined
}
