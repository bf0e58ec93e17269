// What stands behind Roost: a WebSocket server that echoes, with compression where a client offers it.
'use strict';

const { WebSocketServer } = require('ws');

const sockets = new WebSocketServer({ port: 8080, maxPayload: 64 * 1024 * 1024, perMessageDeflate: true });
sockets.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  // Clients that break the protocol are what it is there for.
  socket.on('error', () => {});
});
process.on('SIGTERM', () => process.exit(0));
