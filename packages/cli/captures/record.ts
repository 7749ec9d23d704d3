/**
 * Records demo.tgcap anew: boots a Debian kernel in a virtual machine, so that nothing of the machine it is made on gets into the file, runs the whole
 * pipeline and demo.sh in it, and keeps the batches of demo.sh's cgroup. Run from the repository, built, as root:
 *
 *   node_modules/.bin/node packages/cli/captures/record.ts
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { findNatsServer, prepareVm, runInVm } from '@tidegate/testkit';

const KERNEL = '6.12';
const TIMEOUT_MS = 10 * 60_000;
/** Seconds and a little more each. */
const START_TRIES = 240;
const MARK = '-----capture-----';

/** Runs in the VM, in the repository's folder. */
const COMMAND = `
repository=$PWD
tidegate=$repository/packages/cli/bin/tidegate
# The working folder of this shell, an ancestor of all that is recorded, stands in every batch.
cd /
mkdir /sys/fs/cgroup/shop
export TIDEGATE_ALLOW_CGROUPS=$(stat -c %i /sys/fs/cgroup/shop)
fail() { tail -n 50 /tmp/*.log; exit 1; }
# An emulated machine is slow: not the supervisor's patience counts here, but the sensor's own word.
$tidegate up --data-dir /tmp/data >/tmp/up.log 2>&1 &
up=$!
until curl -fs http://127.0.0.1:7402/readyz >/dev/null; do sleep 1; [ $((tries += 1)) -lt ${START_TRIES} ] && kill -0 $up || fail; done
$tidegate capture --nats nats://127.0.0.1:7422 /tmp/demo.tgcap >/tmp/capture.log 2>&1 &
capture=$!
until grep -q recording /tmp/capture.log; do sleep 1; kill -0 $capture || fail; done
cp $repository/packages/cli/captures/demo.sh /tmp/demo.sh
(echo 0 >/sys/fs/cgroup/shop/cgroup.procs; cd /tmp; exec sh demo.sh)
sleep 5
kill -INT $capture
wait $capture || fail
cat /tmp/capture.log
echo '${MARK}'
base64 /tmp/demo.tgcap
`;

const obstacle = await prepareVm(KERNEL);
if (obstacle !== undefined) throw new Error(obstacle);
const { path } = await findNatsServer();
const { exitCode, output } = await runInVm(COMMAND, {
  kernel: KERNEL,
  timeoutMs: TIMEOUT_MS,
  memoryMib: 2048,
  env: { TIDEGATE_NATS_SERVER: path, TIDEGATE_NODE: 'demo', PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
});
const [log = '', encoded] = output.split(`${MARK}\n`);
process.stderr.write(log);
if (exitCode !== 0 || encoded === undefined) throw new Error(`recording ended with status ${exitCode}`);
const file = fileURLToPath(new URL('demo.tgcap', import.meta.url));
writeFileSync(file, Buffer.from(encoded, 'base64'));
process.stderr.write(`${file} is written\n`);
