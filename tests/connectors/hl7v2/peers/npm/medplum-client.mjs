// @medplum/hl7's client.
import { Hl7Message } from '@medplum/core';
import { Hl7Client } from '@medplum/hl7';
import { obey } from './lines.mjs';

const PATIENCE_MS = 60_000; // it waits for ever when the connection is closed before the answer
let client;

const read = (ack) => ({
  code: ack.getSegment('MSA').getComponent(1, 1),
  named: ack.getSegment('MSA').getComponent(2, 1),
  error: ack.getSegment('ERR')?.getComponent(3, 1) ?? '',
  receiver: ack.header.getComponent(5, 1),
});

obey({
  async connect({ host, port, encoding }) {
    client = new Hl7Client({ host, port, encoding, keepAlive: true });
    await client.connect();
  },
  async send({ message }) {
    return read(await client.sendAndWait(Hl7Message.parse(message), { timeoutMs: PATIENCE_MS }));
  },
  connected: () => client.connection !== undefined,
  close: () => client.close(),
});
