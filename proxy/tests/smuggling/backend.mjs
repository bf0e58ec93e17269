// Tells on its output which requests it has seen whole, one a line, and answers each with the same.
import http from "node:http";

const server = http.createServer(async (request, response) => {
  let length = 0;
  try {
    for await (const data of request) length += data.length;
  } catch {
    return;
  }
  const seen = `${request.method} ${request.url} ${length}`;
  process.stdout.write(`SEEN ${seen}\n`);
  response.setHeader("content-length", seen.length);
  response.end(seen);
});
server.keepAliveTimeout = 60000;
server.listen(0, "127.0.0.1", () => process.stdout.write(`PORT ${server.address().port}\n`));
// The end of the test is the end of this.
process.stdin.resume().on("end", () => process.exit(0));
