// A chat as a Lambda function behind an API Gateway WebSocket API. Nothing in it is special to Roost.
import { ApiGatewayManagementApiClient, PostToConnectionCommand } from '@aws-sdk/client-apigatewaymanagementapi';

// Who is here: names by the ids of connections. It lives as long as the process; with more than one of these it has to
// be in a database.
const names = new Map();

let client;
function clientOf({ domainName, stage }) {
  const endpoint = process.env.AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI ?? `https://${domainName}/${stage}`;
  return (client ??= new ApiGatewayManagementApiClient({ endpoint }));
}

async function post(context, connectionId, message) {
  try {
    const command = new PostToConnectionCommand({ ConnectionId: connectionId, Data: JSON.stringify(message) });
    await clientOf(context).send(command);
  } catch (error) {
    if (error.name !== 'GoneException') throw error;
    names.delete(connectionId);
  }
}

function connect(context, event) {
  const name = event.queryStringParameters?.name?.slice(0, 40);
  if (!name) return { statusCode: 400, body: 'Say who you are: ?name=…' };
  names.set(context.connectionId, name);
  return { statusCode: 200 };
}

async function sendMessage(context, event) {
  const { to, text } = JSON.parse(event.body);
  const message = { from: names.get(context.connectionId) ?? 'somebody', to, text: String(text) };
  const meant = [...names].filter(([id, name]) => !to || name === to || id === context.connectionId);
  await Promise.all(meant.map(([id]) => post(context, id, message)));
  return { statusCode: 200 };
}

export async function handler(event) {
  const context = event.requestContext;
  switch (context.routeKey) {
    case '$connect':
      return connect(context, event);
    case '$disconnect':
      names.delete(context.connectionId);
      return { statusCode: 200 };
    case 'sendMessage':
      return sendMessage(context, event);
    default: {
      const here = [...new Set(names.values())];
      return { statusCode: 200, body: JSON.stringify({ here, say: { action: 'sendMessage', text: '…', to: '…' } }) };
    }
  }
}
