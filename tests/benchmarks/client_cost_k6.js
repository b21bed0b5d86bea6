// The k6 user of client_cost.py: one POST with a body that is encoded ahead, and the check of its status.
import http from 'k6/http';
import { check } from 'k6';

const url = `http://127.0.0.1:${__ENV.PORT}/xmlrpc/2/object`;
const body = open(__ENV.BODY);
const parameters = { headers: { 'Content-Type': 'text/xml' } };

export const options = {
  vus: Number(__ENV.USERS),
  iterations: Number(__ENV.REQUESTS),
  noConnectionReuse: __ENV.KEEP_ALIVE === '0',
};

export default function () {
  check(http.post(url, body, parameters), { 'status is 200': (reply) => reply.status === 200 });
}
