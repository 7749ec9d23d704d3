/**
 * Writes the users of a NATS server for Tidegate, each with the least permissions, to deploy/helm/tidegate/files/users.conf: the chart's server includes it, and so can one of
 * your own. The permissions are those of packages/runtime; passwords come from the environment of the server.
 *
 *   node deploy/nats/generate.js           writes the file
 *   node deploy/nats/generate.js --check   fails when the file is not as it should be
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { NatsRole, consumerPermissions, rolePermissions } from '../../packages/runtime/dist/index.js';

const FILE = new URL('../helm/tidegate/files/users.conf', import.meta.url);
/** The users of an installation; `admin` is for the embedded server. */
const ROLES = [NatsRole.sensor, NatsRole.enricher, NatsRole.gateway, NatsRole.api, NatsRole.connectors, NatsRole.setup];

const text = `# Written by deploy/nats/generate.js. Passwords come from the server's environment.
users: [
${[...ROLES.map(role => userText(role, rolePermissions(role))), userText('consumer', consumerPermissions())].join('\n')}
]
`;

if (process.argv.includes('--check')) {
  if (readFileSync(FILE, 'utf8') !== text) {
    process.stderr.write(
      'deploy/helm/tidegate/files/users.conf: expected what `node deploy/nats/generate.js` writes, got something else\n',
    );
    process.exit(1);
  }
} else writeFileSync(FILE, text);

function userText(user, { publish, subscribe }) {
  const subjects = ({ allow }) => allow.map(subject => `\n        ${JSON.stringify(subject)}`).join('');
  return `  {
    user: ${user}
    password: $${user.toUpperCase()}_PASSWORD
    permissions: {
      publish: { allow: [${subjects(publish)}
      ] }
      subscribe: { allow: [${subjects(subscribe)}
      ] }
    }
  }`;
}
