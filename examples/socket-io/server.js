// A Socket.IO server. Clients begin with long polling and go over to a WebSocket, as they do by default.
'use strict';

const http = require('node:http');
const { networkInterfaces } = require('node:os');
const { Server } = require('socket.io');

// Replicas of a function are told apart by their address.
const replica = networkInterfaces().eth0?.[0]?.address ?? 'localhost';

const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'text/plain; charset=utf-8');
  response.end(request.url.startsWith('/_/') ? 'OK\n' : 'Come with a Socket.IO client.\n');
});
const io = new Server(server);

io.on('connection', (socket) => {
  socket.on('echo', (message, reply) => reply({ message, replica }));
});

// As PID 1 of a container, Node does nothing on TERM by itself.
process.on('SIGTERM', () => {
  io.close(() => process.exit(0));
  setTimeout(() => process.exit(0), 5000).unref();
});

server.listen(process.env.PORT || 8080, () => console.log(`listening on ${server.address().port}`));
