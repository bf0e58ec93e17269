// Holds what Autobahn reports of two servers, case by case, against each other. Where there is but one, no case may have
// failed. Ends with 1 when that is not so.
'use strict';

const { readFileSync } = require('node:fs');

const { straight, through } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const seen = ({ behavior, behaviorClose, remoteCloseCode }) => `${behavior}, close ${behaviorClose} ${remoteCloseCode}`;
const none = { behavior: 'not run' };
const fine = (kind) => ['OK', 'NON-STRICT', 'INFORMATIONAL'].includes(kind);

const cases = [...new Set([straight ?? {}, through].flatMap(Object.keys))];
const kinds = {};
for (const name of cases) {
  const { behavior } = through[name] ?? none;
  kinds[behavior] = (kinds[behavior] ?? 0) + 1;
}
console.log(`${cases.length} cases: ${Object.entries(kinds).map(([kind, count]) => `${count} ${kind}`).join(', ')}`);

const bad = straight
  ? cases.filter((name) => seen(straight[name] ?? none) !== seen(through[name] ?? none))
  : cases.filter((name) => !fine(through[name].behavior) || !fine(through[name].behaviorClose));
for (const name of bad) {
  const beside = straight ? `straight ${seen(straight[name] ?? none)}; ` : '';
  console.log(`${name}: ${beside}through Roost ${seen(through[name] ?? none)}`);
}
if (cases.length === 0 || bad.length > 0) process.exit(1);
console.log(straight ? 'Through Roost each is what it is without.' : 'None failed.');
