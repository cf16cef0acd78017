// fhir-kit-client against a FHIR server: every command is one call of it; `refused` tells what came instead.
import { Client } from 'fhir-kit-client';
import { obey } from './lines.mjs';

let client;

const told = async (asked) => {
  try {
    return { resource: await asked };
  } catch (error) {
    return { status: error.response?.status ?? 0, outcome: error.response?.data ?? String(error) };
  }
};

obey({
  connect: ({ base, token }) => {
    client = new Client({ baseUrl: base, bearerToken: token });
  },
  operation: ({ name, parameters }) => told(client.operation({ name, resourceType: 'Appointment', input: parameters })),
  search: ({ kind, query }) => told(client.resourceSearch({ resourceType: kind, searchParams: query })),
  next: ({ bundle }) => told(client.nextPage({ bundle })),
  read: ({ kind, id }) => told(client.read({ resourceType: kind, id })),
  update: ({ resource }) => told(client.update({ resourceType: resource.resourceType, id: resource.id, body: resource })),
  create: ({ resource }) => told(client.create({ resourceType: resource.resourceType, body: resource })),
});
