// Talks to an echoing WebSocket; ends with an error when something does not come back.
import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";

const messages = ["hello", "", Buffer.from([0, 255, 10]), "\u00e4\u20ac", "x".repeat(300_000), Buffer.alloc(1_000_000, 7)];

async function next(socket, event) {
  return once(socket, event, { signal: AbortSignal.timeout(30_000) });
}

// With compression offered, as is this library's default, and without.
for (const perMessageDeflate of [true, false]) {
  const socket = new WebSocket(process.argv[2], { perMessageDeflate });
  await next(socket, "open");
  for (const message of messages) {
    socket.send(message);
    const [data, isBinary] = await next(socket, "message");
    assert.equal(isBinary, Buffer.isBuffer(message));
    assert.deepEqual(data, Buffer.from(message));
  }
  socket.ping("there?");
  const [pong] = await next(socket, "pong");
  assert.equal(pong.toString(), "there?");
  socket.close(4001, "bye");
  const [code] = await next(socket, "close");
  assert.equal(code, 4001);
}
