// One customer's agent: each message is a POST, and the answer goes back piece by piece while it is made. This process
// serves one customer alone (roost.scale.key), so what it remembers needs no name.
import http from 'node:http';
import { think } from './think.mjs';

const { ROOST_KEY: customer = 'nobody', ROOST_CONNECTIONS_URL: url, ROOST_CONNECTIONS_TOKEN: token } = process.env;
const MAX_MESSAGE = 64 * 1024;
const MAX_REMEMBERED = 20;
const MAX_STATE = 8 * 1024; // of what Roost keeps for a connection

let remembered = [];
let turn = Promise.resolve();

// What is remembered goes with the connection, too: an agent that was at zero reads there what it knew.
function recall(state) {
  if (remembered.length > 0 || !state) return;
  remembered = JSON.parse(Buffer.from(state, 'base64').toString());
}

function keep() {
  for (let from = 0; ; from += 1) {
    const state = Buffer.from(JSON.stringify(remembered.slice(from))).toString('base64');
    if (state.length <= MAX_STATE) return state;
  }
}

async function say(connection, message) {
  const said = await fetch(`${url}/connections/${connection}`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${token}` },
    body: JSON.stringify(message),
  });
  if (!said.ok) throw new Error(`the client is gone (${said.status})`);
}

async function answer(connection, state, text) {
  recall(state);
  remembered.push({ by: 'customer', text });
  let whole = '';
  for await (const piece of think(customer, remembered)) {
    await say(connection, { piece });
    whole += piece;
  }
  remembered.push({ by: 'agent', text: whole });
  remembered = remembered.slice(-MAX_REMEMBERED);
  return keep();
}

async function read(request) {
  const pieces = [];
  let length = 0;
  for await (const piece of request) {
    length += piece.length;
    if (length > MAX_MESSAGE) throw new RangeError(`the message is longer than ${MAX_MESSAGE} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

const server = http.createServer(async (request, response) => {
  const { 'ce-connectionid': connection, 'ce-connectionstate': state } = request.headers;
  if (request.method !== 'POST' || !connection) return response.end(`The agent of ${customer}.\n`);
  try {
    const text = await read(request);
    // A customer may have several windows open: one thought after the other.
    const mine = turn.then(() => answer(connection, state, text));
    turn = mine.catch(() => {});
    response.setHeader('ce-connectionState', await mine);
    response.setHeader('Content-Type', 'application/json');
    response.end('{"done":true}');
  } catch (error) {
    console.error(error.message);
    response.statusCode = 500;
    response.end();
  }
});

// As PID 1 of a container, Node does nothing on TERM by itself.
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});

server.listen(8080, () => console.log(`the agent of ${customer} is up`));
