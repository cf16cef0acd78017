// @medplum/hl7's server as a hospital: books what it is asked for (SRM), takes payments (DFT), knows whomever it is asked for (QBP).
import { Hl7Message, Hl7Segment } from '@medplum/core';
import { Hl7Server } from '@medplum/hl7';
import { obey } from './lines.mjs';

const seen = [];
let manners = {};
let server;

const part = (message, name, ...place) => message.getSegment(name)?.getComponent(...place) ?? '';

function reply(request) {
  const answer = request.buildAck({ ackCode: 'AA' });
  const kind = part(request, 'MSH', 9, 1);
  const rename = (type) => answer.header.setField(9, type);
  if (kind === 'SRM') {
    rename('SRR^S01^SRR_S01');
    const fields = Array(26).fill('');
    [fields[0], fields[1], fields[2], fields[25]] = ['SCH', part(request, 'ARQ', 1, 1), `M${seen.length}`, 'Booked'];
    answer.segments.push(new Hl7Segment(fields));
  } else if (kind === 'QBP') {
    const asked = (repetition) => part(request, 'QPD', 3, 2, undefined, repetition);
    rename('RSP^K22^RSP_K21');
    answer.segments.push(
      new Hl7Segment(['QAK', part(request, 'QPD', 2, 1), 'OK']),
      request.getSegment('QPD'),
      new Hl7Segment(['PID', '1', '', `M100^^^H^MR~${asked(0)}^^^CHN^NI`, '', asked(2)]),
    );
  }
  return answer;
}

obey({
  listen({ port, ...rest }) {
    manners = rest;
    server = new Hl7Server((connection) => {
      connection.addEventListener('message', ({ message }) => {
        seen.push({
          kind: part(message, 'MSH', 9, 1),
          key: part(message, 'ARQ', 1, 1) || part(message, 'FT1', 2, 1),
          name: part(message, 'PID', 5, 1),
        });
        setTimeout(async () => {
          connection.send(reply(message));
          if (manners.hang_up) connection.socket.end();
        }, manners.delay_ms ?? 0);
      });
    });
    // With `commits` it acknowledges the commit of each message by itself, before the answer.
    server.start(port, manners.encoding, manners.commits ?? false);
    return new Promise((resolve) => server.server.once('listening', resolve));
  },
  behave: ({ changes }) => void Object.assign(manners, changes),
  seen: () => seen.splice(0),
  close: () => server.stop({ forceDrainTimeoutMs: 1 }),
});
