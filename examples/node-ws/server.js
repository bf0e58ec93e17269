// An HTTP server with express, and a WebSocket server with ws, on one port.
'use strict';

const http = require('node:http');
const express = require('express');
const { WebSocketServer } = require('ws');

const app = express();
app.get('/', (request, response) => response.type('text').send('Open a WebSocket here: messages come back.\n'));
app.get(['/_/health', '/_/ready'], (request, response) => response.type('text').send('OK\n'));

const server = http.createServer(app);
const sockets = new WebSocketServer({ noServer: true, maxPayload: 16 * 1024 * 1024 });

sockets.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on('error', (error) => console.error(`websocket: ${error.message}`));
});

server.on('upgrade', (request, socket, head) => {
  sockets.handleUpgrade(request, socket, head, (opened) => sockets.emit('connection', opened, request));
});

// As PID 1 of a container, Node does nothing on TERM by itself.
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
  for (const socket of sockets.clients) socket.close(1001, 'stopping');
  setTimeout(() => process.exit(0), 5000).unref();
});

server.listen(process.env.PORT || 8080, () => console.log(`listening on ${server.address().port}`));
