// Speaks to a connection by AWS' SDK for JavaScript as a handler does, and looks at the names of its errors:
// management.mjs ENDPOINT ID
import assert from 'node:assert/strict';
import {
  ApiGatewayManagementApiClient, DeleteConnectionCommand, GetConnectionCommand, PostToConnectionCommand,
} from '@aws-sdk/client-apigatewaymanagementapi';

const [endpoint, ConnectionId] = process.argv.slice(2);
const client = new ApiGatewayManagementApiClient({ endpoint });
const refused = (command, name, status) =>
  assert.rejects(client.send(command), (error) => {
    assert.equal(error.name, name);
    assert.equal(error.$metadata.httpStatusCode, status);
    return true;
  });

await client.send(new PostToConnectionCommand({ ConnectionId, Data: 'h\u{e9}llo from JavaScript' }));
await client.send(new PostToConnectionCommand({ ConnectionId, Data: new Uint8Array([0xff, 0]) }));
const { Identity, ConnectedAt, LastActiveAt } = await client.send(new GetConnectionCommand({ ConnectionId }));
assert.equal(Identity.SourceIp, '127.0.0.1');
assert.ok(ConnectedAt <= LastActiveAt);
// An id as they are at AWS: it ends with what has to be encoded in a path.
const gone = 'L0SM9cOFvHcCIhw=';
await refused(new GetConnectionCommand({ ConnectionId: gone }), 'GoneException', 410);
await refused(new DeleteConnectionCommand({ ConnectionId: gone }), 'GoneException', 410);
await refused(new PostToConnectionCommand({ ConnectionId: gone, Data: 'x' }), 'GoneException', 410);
const large = new Uint8Array((1 << 20) + 1);
await refused(new PostToConnectionCommand({ ConnectionId, Data: large }), 'PayloadTooLargeException', 413);
const secret = { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: 'another' };
const stranger = new ApiGatewayManagementApiClient({ endpoint, credentials: secret });
await assert.rejects(stranger.send(new GetConnectionCommand({ ConnectionId })), { name: 'ForbiddenException' });
await client.send(new DeleteConnectionCommand({ ConnectionId }));
