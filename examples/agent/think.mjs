// Where a model goes: what it says, piece by piece, of what was said so far. This one counts and repeats.
import { setTimeout as pause } from 'node:timers/promises';

export async function* think(customer, remembered) {
  const asked = remembered.filter(one => one.by === 'customer');
  const answer = `${customer}, this is question ${asked.length} of yours. You said: ${asked.at(-1).text}`;
  for (const word of answer.split(/(?<= )/)) {
    await pause(30);
    yield word;
  }
}
