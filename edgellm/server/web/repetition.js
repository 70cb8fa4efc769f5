// Answers that only repeat themselves: small models can go on so until their context is full.

const CHARS = 1200;
const TIMES = 8;
const SAME = 32;

/** True if the last characters of a text are the same words at least eight times over, as in the command line. */
export function repeats(text) {
  const tail = text.slice(-CHARS);
  if (tail.length < CHARS) return false;
  // An earlier place of the last characters gives the period.
  const period = CHARS - SAME - tail.lastIndexOf(tail.slice(-SAME), CHARS - SAME - 1);
  return period <= CHARS / TIMES && tail.slice(period) === tail.slice(0, -period);
}
