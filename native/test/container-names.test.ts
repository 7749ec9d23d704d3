/** Which folder of a cgroup's path is a container, when no runtime on this machine says so; and who is believed. */
import type { Container } from '@tidegate/contracts';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chownSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createCgroups, runIn, type TestCgroups } from './cgroups.ts';
import { findExec, skipReason, startSensor, temporaryFolder, type SeenEvent, type TestSensor } from './sensor.ts';

const ID = '0123456789abcdef'.repeat(4);
const OTHER_ID = 'fedcba9876543210'.repeat(4);
const BUILD_ID = 'kx3y9q0z1w2v4u5t6s7r8p9o0';
const TASK = '0123456789abcdef0123456789abcdef';
const POD = 'a1b2c3d4-0000-4000-8000-00000000beef';
const POD_SLICE = POD.replaceAll('-', '_');
const STATIC_POD = '0123456789abcdef0123456789abcdef';
const NOBODY = 65_534;

/** Cgroup of the node; how many of its last folders lie inside the container; and what it must be taken for. */
const FORMS: [path: string, nested: number, containerId: string, podUid: string, runtime: string][] = [
  ['user.slice/user-1000.slice/session-2.scope', 0, '', '', ''],
  ['system.slice/containerd.service', 0, '', '', ''],
  [`system.slice/not-a-container-${ID}`, 0, '', '', ''],
  [`kubepods/besteffort/pod${POD}/${ID}`, 0, ID, POD, ''],
  [`kubepods/pod${POD}/${ID}`, 0, ID, POD, ''],
  [`kubepods/burstable/pod${POD}/${ID}/init.scope/deeper`, 2, ID, POD, ''],
  [`kubepods/burstable/pod${POD}`, 0, '', POD, ''],
  [`kubepods/burstable/pod${POD}/crio-conmon-${ID}.scope`, 1, '', POD, ''],
  [`kubepods/burstable/pod${STATIC_POD}/${ID}`, 0, ID, STATIC_POD, ''],
  [`kubepods.slice/kubepods-pod${POD_SLICE}.slice/cri-containerd-${ID}.scope`, 0, ID, POD, 'containerd'],
  [
    `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${POD_SLICE}.slice/cri-containerd-${ID}.scope`,
    0,
    ID,
    POD,
    'containerd',
  ],
  [`kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${POD_SLICE}.slice/crio-${ID}.scope`, 0, ID, POD, 'cri-o'],
  [`kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${POD_SLICE}.slice/crio-${ID}.scope/container`, 1, ID, POD, 'cri-o'],
  [`kubepods.slice/kubepods-pod${POD_SLICE}.slice/docker-${ID}.scope`, 0, ID, POD, 'docker'],
  [`kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod${POD_SLICE}.slice/cri-containerd-${ID}.scope`, 0, ID, POD, 'containerd'],
  [`system.slice/kubepods-besteffort-pod${POD_SLICE}.slice:cri-containerd:${ID}`, 0, ID, POD, 'containerd'],
  // The outermost container wins, whatever is called what inside of it.
  [`docker/${OTHER_ID}/kubepods/besteffort/pod${POD}/${ID}`, 4, OTHER_ID, '', 'docker'],
  [`kubepods/besteffort/pod${POD}/${ID}/docker/${OTHER_ID}`, 2, ID, POD, ''],
  [`kubepods/besteffort/pod${POD}/${ID}/kubepods/besteffort/pod${STATIC_POD}/${OTHER_ID}`, 4, ID, POD, ''],
  // No folder that kubelet or systemd would make: the container's name may be a container's, but the pod is none.
  [`app.slice/kubepods-besteffort-pod${POD_SLICE}.slice/cri-containerd-${ID}.scope`, 0, ID, '', 'containerd'],
  [`system.slice/pod${POD}`, 0, '', '', ''],
  [`system.slice/docker-${ID}.scope`, 0, ID, '', 'docker'],
  [`docker/${ID}`, 0, ID, '', 'docker'],
  [`ecs/${TASK}/${ID}`, 0, ID, '', ''],
  [`ecs/${TASK}/${TASK}-2531612879`, 0, `${TASK}-2531612879`, '', ''],
  [`ecs/${TASK}`, 0, '', '', ''],
  [`ecstasks.slice/ecstasks-${TASK}.slice/docker-${ID}.scope`, 0, ID, '', 'docker'],
  [`machine.slice/libpod-${ID}.scope`, 0, ID, '', 'podman'],
  [`machine.slice/libpod-${ID}.scope/container`, 1, ID, '', 'podman'],
  [`machine.slice/libpod-conmon-${ID}.scope`, 0, '', '', ''],
  [`libpod_parent/libpod-${ID}`, 0, ID, '', 'podman'],
  [`user.slice/user-1000.slice/user@1000.service/user.slice/libpod-${ID}.scope`, 0, ID, '', 'podman'],
  // Quadlet, and podman run --cgroups=split.
  [`system.slice/web.service/libpod-payload-${ID}`, 0, ID, '', 'podman'],
  ['system.slice/web.service/runtime', 0, '', '', ''],
  [`system.slice/nerdctl-${ID}.scope`, 0, ID, '', 'containerd'],
  [`buildkit/${BUILD_ID}`, 0, BUILD_ID, '', 'buildkit'],
  [`docker/buildkit/${BUILD_ID}`, 0, BUILD_ID, '', 'buildkit'],
  [`system.slice/buildkit-${BUILD_ID}.scope`, 0, BUILD_ID, '', 'buildkit'],
  ['lxc.payload.web-1', 0, 'web-1', '', 'lxc'],
  ['lxc.payload.web-1/system.slice/cron.service', 2, 'web-1', '', 'lxc'],
  ['lxc/web-1', 0, 'web-1', '', 'lxc'],
  ['lxc.monitor.web-1', 0, '', '', ''],
  ['machine.slice/systemd-nspawn@web\\x2d1.service/payload', 0, 'web-1', '', 'systemd-nspawn'],
  ['machine.slice/systemd-nspawn@web\\x2d1.service/payload/init.scope', 1, 'web-1', '', 'systemd-nspawn'],
  ['machine.slice/systemd-nspawn@web\\x2d1.service/supervisor', 0, '', '', ''],
  ['machine.slice/machine-qemu\\x2d1\\x2dweb.scope', 0, '', '', ''],
];

/** What a user without root makes in a folder that is his, and what the process in it must be taken for. */
const FORGED: [path: string, containerId: string][] = [
  [`kubepods-besteffort-pod${POD_SLICE}.slice/cri-containerd-${ID}.scope`, ID],
  [`kubepods.slice/kubepods-pod${POD_SLICE}.slice/cri-containerd-${ID}.scope`, ID],
  [`kubepods/besteffort/pod${POD}/${ID}`, ''],
  [`kubepods/besteffort/pod${POD}`, ''],
  [`docker/${ID}`, ''],
  ['lxc.payload.web-1', ''],
  [`buildkit/${BUILD_ID}`, ''],
];

describe("what a cgroup's name says", { skip: skipReason() }, () => {
  const host = temporaryFolder();
  let cgroups: TestCgroups;
  let sensor: TestSensor;

  before(() => {
    cgroups = createCgroups();
    // The node has these cgroups alone, and no runtime.
    sensor = startSensor({ cgroupRoot: cgroups.top, hostRoot: host });
  });
  after(async () => {
    await sensor.close();
    cgroups.remove();
  });

  async function seenIn(cgroup: string, by: TestSensor = sensor): Promise<SeenEvent> {
    const marker = randomUUID();
    runIn(cgroup, `/bin/true ${marker}`);
    await by.until(marker, () => findExec(by, marker) !== undefined);
    return findExec(by, marker)!;
  }

  const told = (container: Container | undefined) => {
    const { containerId = '', podUid = '', runtime = '', unconfirmed = false } = container ?? {};
    return { containerId, podUid, runtime, unconfirmed };
  };

  for (const [path, nested, containerId, podUid, runtime] of FORMS) {
    test(path.replaceAll(ID, '<id>').replaceAll(OTHER_ID, '<other id>'), async () => {
      const cgroup = cgroups.make(path);
      const { event, container } = await seenIn(cgroup);
      assert.deepEqual(told(container), { containerId, podUid, runtime, unconfirmed: containerId !== '' });
      assert.equal(event.exec?.cgroupId, statSync(cgroup).ino);
      if (containerId || podUid)
        assert.equal(join(cgroups.top, container?.cgroupPath ?? ''), join(cgroup, '../'.repeat(nested)).replace(/\/$/, ''));
    });
  }

  /** Makes what is in FORGED, each in a folder of the user's own. */
  function forge(top: string): { cgroup: string; path: string; containerId: string }[] {
    return FORGED.map(([path, containerId], index) => {
      const own = cgroups.make(`${top}/app-${index}.slice`);
      chownSync(own, NOBODY, NOBODY);
      const cgroup = join(own, path);
      const { status, stderr } = spawnSync('/bin/mkdir', ['-p', cgroup], { uid: NOBODY, gid: NOBODY });
      assert.equal(status, 0, stderr.toString());
      cgroups.adopt(own, path);
      return { cgroup, path, containerId };
    });
  }

  for (const isOlder of [false, true]) {
    test(`what a user without root made is no pod's${isOlder ? ', also when it is older than the sensor' : ''}`, async context => {
      const forged = forge(`user-${isOlder}.slice`);
      const by = isOlder ? startSensor({ cgroupRoot: cgroups.top, hostRoot: host }) : sensor;
      if (isOlder) context.after(() => by.close());
      for (const { cgroup, path, containerId } of forged) {
        const { container } = await seenIn(cgroup, by);
        assert.deepEqual(
          told(container),
          { containerId, podUid: '', runtime: containerId && 'containerd', unconfirmed: containerId !== '' },
          path,
        );
      }
    });
  }
});
