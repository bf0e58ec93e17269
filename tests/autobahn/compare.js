// Holds what Autobahn reports of two servers, case by case, against each other. Ends with 1 when they differ.
'use strict';

const { readFileSync } = require('node:fs');

const { straight, through } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const seen = ({ behavior, behaviorClose, remoteCloseCode }) => `${behavior}, close ${behaviorClose} ${remoteCloseCode}`;
const none = { behavior: 'not run' };

const cases = [...new Set([straight, through].flatMap(Object.keys))];
const differ = cases.filter((name) => seen(straight[name] ?? none) !== seen(through[name] ?? none));
const kinds = {};
for (const name of cases) {
  const { behavior } = through[name] ?? none;
  kinds[behavior] = (kinds[behavior] ?? 0) + 1;
}
console.log(`${cases.length} cases: ${Object.entries(kinds).map(([kind, count]) => `${count} ${kind}`).join(', ')}`);
for (const name of differ) {
  console.log(`${name}: straight ${seen(straight[name] ?? none)}; through Roost ${seen(through[name] ?? none)}`);
}
if (cases.length === 0 || differ.length > 0) process.exit(1);
console.log('Through Roost each is what it is without.');
