// simple-hl7's client. It always speaks UTF-8.
import hl7 from 'simple-hl7';
import { obey } from './lines.mjs';

const parser = new hl7.Parser({ segmentSeperator: '\r' });
let client;

const read = (ack) => ({
  code: ack.getSegment('MSA').getComponent(1, 1),
  named: ack.getSegment('MSA').getComponent(2, 1),
  error: ack.getSegment('ERR')?.getComponent(3, 1) ?? '',
  receiver: ack.header.getComponent(3, 1),
});

obey({
  connect: ({ host, port }) =>
    new Promise((resolve, reject) => {
      client = hl7.Server.createTcpClient({ host, port, keepalive: true });
      client.connect((error) => (error ? reject(error) : resolve()));
    }),
  send: ({ message }) =>
    new Promise((resolve, reject) => {
      client.send(parser.parse(message), (error, ack) => (error ? reject(error) : resolve(read(ack))));
    }),
  connected: () => client.client !== undefined && !client.client.readableEnded && !client.client.destroyed,
  close: () => client.close(),
});
