// A function behind WebSockets that the host holds, as plain HTTP: it lets everybody into one room, says again what it is told, has
// the room told, and closes. It has no line of WebSocket.
import { createServer } from "node:http";

const subprotocol = "chat.v1";

createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts);
  const event = request.headers["ce-eventname"];
  if (event === "connect") {
    const offered = JSON.parse(body).subprotocols ?? [];
    const chosen = offered.includes(subprotocol) ? { subprotocol } : {};
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ groups: ["room"], ...chosen }));
    return;
  }
  if (event === "disconnected") {
    const say = (name) => request.headers[`ce-${name}`];
    console.log(`gone ${say("closecode")} by ${say("closedby")}: ${JSON.parse(body).reason}`);
  }
  if (event !== "message") {
    response.writeHead(204).end();
    return;
  }
  const [verb, ...rest] = body.subarray(0, 100).toString().split(" ");
  if (verb === "close") {
    response.writeHead(204, { "x-ws-close": rest.join(" ") }).end();
    return;
  }
  const headers = { "content-type": request.headers["content-type"] };
  if (verb === "room") headers["x-ws-broadcast"] = "group=room; exclude-self";
  response.writeHead(200, headers).end(body);
}).listen(process.env.PORT ?? 8080);
