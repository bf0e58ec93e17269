// Talks to the socket-io example in sessions that begin with long polling and go over to a WebSocket. Prints, a line
// for each session, the replica that it had; ends with an error when something does not come back.
//
//     node socketio.mjs URL PATH SESSIONS
import assert from "node:assert/strict";
import { once } from "node:events";
import { io } from "socket.io-client";

const [url, path, sessions] = process.argv.slice(2);

async function next(emitter, event) {
  return once(emitter, event, { signal: AbortSignal.timeout(30_000) });
}

async function session() {
  const socket = io(url, {
    path,
    forceNew: true,
    reconnection: false,
    transports: ["polling", "websocket"],
    withCredentials: true,
    autoConnect: false,
  });
  const failed = next(socket, "connect_error").then(([error]) => Promise.reject(error));
  // It fails, too, when nothing went wrong for long enough.
  failed.catch(() => {});
  socket.connect();
  await Promise.race([next(socket, "connect"), failed]);
  const engine = socket.io.engine;
  if (engine.transport.name !== "websocket") await next(engine, "upgrade");
  assert.equal(engine.transport.name, "websocket");
  let replica;
  for (const message of ["hi", "", "\u00e4\u20ac", "x".repeat(100_000)]) {
    const answer = await socket.timeout(30_000).emitWithAck("echo", message);
    assert.equal(answer.message, message);
    replica ??= answer.replica;
    assert.equal(answer.replica, replica);
  }
  socket.disconnect();
  return replica;
}

for (let n = 0; n < Number(sessions); n++) console.log(await session());
process.exit(0);
