// Talks to the oracle's handler over WebSockets, and prints what it sees, but for ids and times: script.mjs URL
import WebSocket from 'ws';

const [url] = process.argv.slice(2);
const say = (...words) => console.log(words.join(' '));

/// JSON with its members in order, and without ids.
function plain(text) {
  const value = (key, value) => {
    if (['connectionId', 'requestId'].includes(key)) return '…';
    if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).sort());
  };
  try {
    return JSON.stringify(JSON.parse(text), value);
  } catch {
    return text;
  }
}

// A Close without a code says the same as one with the code of a normal end.
const normal = (code) => (code === 1005 ? 1000 : code);

// How long nothing has to come before it is taken for nothing.
const QUIET = 700;

class Client {
  constructor(name, query = '', protocols = []) {
    this.name = name;
    this.heard = [];
    this.socket = new WebSocket(url + query, protocols);
    this.socket.on('message', (data, binary) => this.hear(`${binary ? 'binary' : 'text'} ${plain(data.toString())}`));
    this.socket.on('close', (code, reason) => this.hear(`close ${normal(code)} ${reason}`));
    this.opened = new Promise((resolve) => {
      this.socket.on('open', () => resolve(`101 protocol=${this.socket.protocol}`));
      this.socket.on('unexpected-response', (_, response) => { resolve(response.statusCode); this.socket.terminate(); });
      this.socket.on('error', () => {});
    });
  }
  hear(what) {
    this.heard.push(what);
    this.wake?.();
  }
  async next() {
    const quiet = new Promise((resolve) => { this.wake = resolve; setTimeout(resolve, QUIET); });
    if (!this.heard.length) await quiet;
    return this.heard.shift() ?? 'nothing';
  }
  async talk(title, message) {
    this.socket.send(message instanceof Buffer ? message : typeof message === 'string' ? message : JSON.stringify(message));
    say(`${this.name}: ${title}:`, await this.next());
  }
}

for (const query of ['?deny=401', '?deny=403', '?deny=500', '?fail=1']) {
  const client = new Client('door', query);
  say('connect', query, await client.opened);
}
const protocol = new Client('protocol', '?protocol=b', ['b']);
say('connect with protocols', await protocol.opened);
protocol.socket.close();

const ada = new Client('ada');
say('connect', await ada.opened);
await ada.talk('two-way', { action: 'ask', a: 1 });
await ada.talk('one-way', { action: 'tell', a: 1 });
await ada.talk('default', { action: 'nothing', a: 1 });
await ada.talk('no text', { action: 7, a: 1 });
await ada.talk('no JSON', 'hello');
await ada.talk('empty', '');
await ada.talk('null', 'null');
await ada.talk('post, one-way', { action: 'tell', how: 'post', text: 'h\u{e9}' });
await ada.talk('post, two-way, first', { action: 'ask', how: 'post', text: '1' });
say('ada: post, two-way, second:', await ada.next());
await ada.talk('post to who is gone', { action: 'ask', how: 'post to', other: 'L0SM9cOFvHcCIhw=', text: '' });
await ada.talk('throw, two-way', { action: 'ask', how: 'throw' });
await ada.talk('throw, one-way', { action: 'tell', how: 'throw' });
for (const status of [200, 201, 302, 400, 404, 500, 503]) {
  await ada.talk(`${status}, two-way`, { action: 'ask', how: 'status', status, text: `body of ${status}` });
  await ada.talk(`${status}, one-way`, { action: 'tell', how: 'status', status, text: `body of ${status}` });
}
await ada.talk('watch', { action: 'tell', how: 'watch' });

const bert = new Client('bert');
say('connect', await bert.opened);
bert.socket.close(1000, 'bye');
say('bert left:', await ada.next());
const carl = new Client('carl');
say('connect', await carl.opened);
await carl.talk('ended', { action: 'tell', how: 'end' });
say('carl left:', await ada.next());
ada.socket.close();
