// simple-hl7's server as a hospital: the same as medplum-server.mjs. Its acknowledgements are HL7 2.3 and of type "ACK".
import hl7 from 'simple-hl7';
import { obey } from './lines.mjs';

const seen = [];
let manners = {};
let app;

const part = (message, name, ...place) => message.getSegment(name)?.getComponent(...place) ?? '';

function answer({ msg, type }, { ack }) {
  if (type === 'SRM') {
    const schedule = ack.addSegment('SCH', part(msg, 'ARQ', 1, 1), `S${seen.length}`);
    schedule.addField('Booked', 25);
  } else if (type === 'QBP') {
    ack.addSegment('QAK', part(msg, 'QPD', 2), 'OK');
    const asked = (repetition) => msg.getSegment('QPD').getField(3, repetition).split('^')[1];
    ack.addSegment('PID', '1', '', `S100^^^H^MR~${asked(1)}^^^CHN^NI`, '', asked(3));
  }
}

obey({
  listen({ port, ...rest }) {
    manners = rest;
    app = hl7.tcp();
    app.use((request, response, next) => {
      const { msg, type } = request;
      seen.push({ kind: type, key: part(msg, 'ARQ', 1, 1) || part(msg, 'FT1', 2, 1), name: part(msg, 'PID', 5, 1) });
      answer(request, response);
      setTimeout(() => {
        response.end();
        if (manners.hang_up) response.socket.end();
      }, manners.delay_ms ?? 0);
    });
    app.start(port);
    return new Promise((resolve) => app.server.server.once('listening', resolve));
  },
  behave: ({ changes }) => void Object.assign(manners, changes),
  seen: () => seen.splice(0),
  close: () => app.stop(),
});
