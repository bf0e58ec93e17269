// Calls the handler for each POST, as Lambda does for each invocation: the body is the event, the answer is what the
// handler returns. It takes the place of the emulator in AWS' own images, and takes many events at a time.
import http from 'node:http';
import { handler } from './handler.mjs';

const MAX_EVENT = 6 * 1024 * 1024;

async function read(request) {
  const pieces = [];
  let length = 0;
  for await (const piece of request) {
    length += piece.length;
    if (length > MAX_EVENT) throw new RangeError(`the event is longer than ${MAX_EVENT} bytes`);
    pieces.push(piece);
  }
  return JSON.parse(Buffer.concat(pieces).toString());
}

async function invoke(request, response) {
  response.setHeader('Content-Type', 'application/json');
  try {
    const returned = await handler(await read(request));
    response.end(JSON.stringify(returned ?? null));
  } catch (error) {
    console.error(error);
    response.setHeader('X-Amz-Function-Error', 'Unhandled');
    response.end(JSON.stringify({ errorMessage: String(error.message), errorType: error.name }));
  }
}

const server = http.createServer((request, response) => {
  if (request.method === 'POST') invoke(request, response);
  else response.end('OK\n');
});

// As PID 1 of a container, Node does nothing on TERM by itself.
process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});

server.listen(8080, () => console.log('waiting for events'));
