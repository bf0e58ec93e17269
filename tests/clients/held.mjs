// Talks to the function of tests/tests/held, whose WebSockets the host holds: `held.mjs URL deflate|plain`. Ends with an error when
// something is not as it should be.
import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";

const [url, compression] = process.argv.slice(2);
const mebibyte = 1 << 20;

const next = (socket, event) => once(socket, event, { signal: AbortSignal.timeout(30_000) });

async function open(protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, options);
  await next(socket, "open");
  return socket;
}

async function hears(socket, message) {
  const [data, isBinary] = await next(socket, "message");
  assert.equal(isBinary, Buffer.isBuffer(message));
  assert.ok(data.equals(Buffer.from(message)), `${data.length} bytes came, not ${message.length}`);
}

async function closed(socket) {
  const [code, reason] = await next(socket, "close");
  return `${code} ${reason}`;
}

// What is agreed upon.
let socket = await open(["chat.v2", "chat.v1"]);
assert.equal(socket.protocol, "chat.v1");
assert.equal(socket.extensions.includes("permessage-deflate"), compression === "deflate", socket.extensions);
const plain = await open([], { perMessageDeflate: false });
assert.deepEqual([plain.protocol, plain.extensions], ["", ""]);

// Messages of any kind, up to the longest that there may be, come back; an empty one is answered by nothing.
for (const client of [socket, plain]) {
  for (const message of ["hello", Buffer.from([0, 255, 10]), "\u00e4\u20ac", "x".repeat(mebibyte), Buffer.alloc(mebibyte, 7)]) {
    client.send(message);
    await hears(client, message);
  }
  // In pieces, with a ping in between that is answered before the message is complete.
  client.send("one, ", { fin: false });
  client.send("two, ", { fin: false });
  client.ping("there?");
  const [pong] = await next(client, "pong");
  assert.equal(pong.toString(), "there?");
  client.send("three", { fin: true });
  await hears(client, "one, two, three");
  client.send(Buffer.from([1]), { fin: false });
  client.send(Buffer.from([2]), { fin: true });
  await hears(client, Buffer.from([1, 2]));
}

// One that is silent is pinged. This library answers by itself, and so the connection lives on.
for (let pings = 0; pings < 2; pings++) await next(plain, "ping");

// What one says to the room, the others hear, and it does not. Its next answer shows that it has heard nothing else.
socket.send("room for all");
await hears(plain, "room for all");
socket.send("still here");
await hears(socket, "still here");

// Closes: the client's, the function's, and the host's, when a message is too long.
plain.close(4001, "bye");
assert.equal(await closed(plain), "4001 bye");
socket.send("close 4002 enough");
assert.equal(await closed(socket), "4002 enough");
for (const options of [{}, { perMessageDeflate: false }]) {
  socket = await open([], options);
  socket.send("x".repeat(mebibyte + 1));
  assert.match(await closed(socket), /^1009 /);
}
