// A WebSocket API's handler that does what it is told. It is the same under serverless-offline and under Roost.
import { ApiGatewayManagementApiClient, DeleteConnectionCommand, PostToConnectionCommand } from '@aws-sdk/client-apigatewaymanagementapi';

const client = new ApiGatewayManagementApiClient({});
// The connection that wants to know who leaves.
let watcher;

const post = (ConnectionId, message) =>
  client.send(new PostToConnectionCommand({ ConnectionId, Data: JSON.stringify(message) }));

// What of an event does not depend on where it is: the names of what is there, and the values that are no ids and no
// times. At AWS messages alone have a messageId, and it is told how a connection was closed; serverless-offline differs.
function shape({ requestContext, ...event }) {
  const { routeKey, eventType, messageDirection, messageId, disconnectStatusCode, disconnectReason, ...context } = requestContext;
  if (eventType === 'MESSAGE') context.messageId = messageId;
  return { fields: Object.keys(event).sort(), context: Object.keys(context).sort(), routeKey, eventType, messageDirection };
}

function connect(event) {
  const { deny, fail, protocol } = event.queryStringParameters ?? {};
  if (fail) throw new Error('told to');
  if (deny) return { statusCode: Number(deny), body: 'denied' };
  return { statusCode: 200, headers: protocol ? { 'Sec-WebSocket-Protocol': protocol } : {} };
}

async function told(id, { how, text, status, other, ...rest }) {
  switch (how) {
    case 'post': await post(id, { posted: text }); break;
    case 'post to': return post(other, { posted: text }).then(() => ({ ok: true }), ({ $metadata }) => ({ status: $metadata.httpStatusCode }));
    case 'end': await client.send(new DeleteConnectionCommand({ ConnectionId: id })); break;
    case 'watch': watcher = id; break;
    case 'throw': throw new Error('told to');
    case 'status': return { statusCode: status, body: text };
    default: return { rest };
  }
}

export async function handler(event) {
  const { routeKey, connectionId } = event.requestContext;
  if (routeKey === '$connect') return connect(event);
  if (routeKey === '$disconnect') {
    if (watcher && watcher !== connectionId) await post(watcher, { left: shape(event) });
    return { statusCode: 200 };
  }
  let body = {};
  try {
    body = JSON.parse(event.body);
  } catch {
    // It takes $default, whatever it is.
  }
  const answer = await told(connectionId, body);
  if (answer?.statusCode) return answer;
  return { statusCode: 200, body: JSON.stringify(answer ?? { event: shape(event), body: event.body }) };
}
