// The `soap` package as a client. It reads the WSDL, and writes and reads the envelopes by it.
import soap from 'soap';
import { obey } from './lines.mjs';

let client;

obey({
  load: async ({ wsdl, version }) => {
    client = await soap.createClientAsync(wsdl, { forceSoap12Headers: version === '1.2' });
    return client.describe();
  },
  call: async ({ operation, given }) => {
    try {
      const [result] = await client[`${operation}Async`](given);
      return { result };
    } catch (error) {
      return { fault: error.root?.Envelope?.Body?.Fault ?? String(error), status: error.response?.status };
    }
  },
});
