// A chat as an event handler of Azure Web PubSub, under Azure's own middleware. It takes events of its host alone: those
// that are signed with one of its keys.
import crypto from 'node:crypto';
import fs from 'node:fs';
import express from 'express';
import { WebPubSubEventHandler } from '@azure/web-pubsub-express';

const handler = new WebPubSubEventHandler('chat', {
  handleConnect(request, response) {
    const name = request.queries?.name?.[0];
    if (!name) return response.fail(401, 'say who you are');
    response.setState('said', 0);
    response.success({ userId: name, groups: ['all'], subprotocol: request.subprotocols?.[0] });
  },
  handleUserEvent(request, response) {
    const said = request.context.states.said + 1;
    response.setState('said', said);
    const { data, dataType, context } = request;
    const text = dataType === 'binary' ? Buffer.from(data).toString('hex') : data;
    response.success(`${context.userId} said ${dataType} ${said}: ${text}`, 'text');
  },
  onConnected: ({ context }) => console.log(`connected ${context.userId}`),
  onDisconnected: ({ context }) => console.log(`disconnected ${context.userId}`),
});

function isSigned(request) {
  const key = fs.readFileSync('/var/openfaas/secrets/primary', 'utf8').trim();
  const expected = crypto.createHmac('sha256', key).update(request.get('ce-connectionId')).digest('hex');
  return request.get('ce-signature')?.split(',').includes(`sha256=${expected}`);
}

const app = express();
app.use((request, response, next) => {
  if (request.method === 'OPTIONS') console.log(`asked by ${request.get('webhook-request-origin')}`);
  if (request.get('ce-connectionId') && !isSigned(request)) response.status(403).end('of nobody I know');
  else next();
});
app.use(handler.getMiddleware());
app.listen(8080);
