// The same as a plain HTTP function, whose WebSockets Roost holds: what is posted comes back as it is. A body of nothing
// would be no message, so an empty one is said in frames.
'use strict';

const { createServer } = require('node:http');

const server = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const type = request.headers['content-type'] ?? 'text/plain';
    const body = Buffer.concat(parts);
    if (request.method === 'POST' && body.length === 0) {
      response.setHeader('Content-Type', 'application/websocket-events');
      response.end(type.startsWith('text/') ? 'TEXT\r\n' : 'BINARY\r\n');
    } else {
      response.setHeader('Content-Type', type);
      response.end(body);
    }
  });
});
server.listen(8080);
process.on('SIGTERM', () => process.exit(0));
