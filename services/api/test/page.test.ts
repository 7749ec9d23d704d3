import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Kind, LossReason, encodeBatch, type EventBatchInput } from '@tidegate/contracts';
import { waitFor } from '@tidegate/testkit';
import { chromium, type Browser, type Page } from 'playwright-core';
import { BOOT_TIME_MS, NODE, execId, ktimeNow, publish } from '@tidegate/testkit/event-messages';
import { startFixture, type Fixture } from './fixture.ts';

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(path => existsSync(path));
const skip = CHROMIUM === undefined ? 'there is no Chromium on this machine' : false;
/** Where pictures of the page are put, for a look at it; default: none are made. */
const PICTURES = process.env.TIDEGATE_TEST_PICTURES;

interface Opened {
  browser: Browser;
  page: Page;
  /** Whatever the browser complains of, a breach of the content security policy above all. */
  complaints: string[];
  [Symbol.asyncDispose](): Promise<void>;
}

async function open(fixture: Fixture, path = '/', colorScheme: 'light' | 'dark' = 'light'): Promise<Opened> {
  const browser = await chromium.launch({ executablePath: CHROMIUM!, args: ['--no-sandbox'] });
  const page = await browser.newPage({ colorScheme, viewport: { width: 1360, height: 800 } });
  const complaints: string[] = [];
  page.on('console', message => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('pageerror', error => complaints.push(String(error)));
  await page.goto(fixture.api.url + path);
  await page.locator('#state[data-state=live]').waitFor();
  return { browser, page, complaints, [Symbol.asyncDispose]: () => browser.close() };
}

const BASE = ktimeNow() - 30_000e6;
const processOf = (id: number, parent: number, pid: number, binary: string, args: string[] = []) => ({
  id,
  parent,
  pid,
  binary,
  arguments: [binary, ...args],
  cwd: '/root',
  execId: execId(pid, BASE + pid * 1e6),
  startKtimeNs: BASE + pid * 1e6,
});
const INIT = processOf(1, 0, 1, '/sbin/init');
const SHELL = processOf(2, 1, 412, '/bin/bash', ['-l']);

async function happen(
  { js }: Fixture,
  kind: 'exec' | 'exit' | 'connect' | 'loss',
  event: object,
  who: object,
  more: EventBatchInput = {},
): Promise<void> {
  const number = { exec: Kind.KIND_EXEC, exit: Kind.KIND_EXIT, connect: Kind.KIND_CONNECT, loss: Kind.KIND_LOSS }[kind];
  const batch = { node: NODE, boot: 'b', wallOffsetNs: BOOT_TIME_MS * 1e6, processes: [INIT, SHELL, who] };
  await publish(js, kind, encodeBatch({ ...batch, events: [{ kind: number, process: 3, ktimeNs: ktimeNow(), ...event }], ...more }));
}

/** A little of everything. */
async function fill(fixture: Fixture): Promise<void> {
  for (let i = 0; i < 12; i++) {
    const ls = processOf(3, 2, 500 + i, '/usr/bin/ls', ['-la', `/tmp/folder-${i}`]);
    await happen(fixture, 'exec', { sequence: i * 2 + 1, exec: { rawPath: 'ls' } }, ls);
    await happen(fixture, 'exit', { sequence: i * 2 + 2, exit: { code: i % 5 === 4 ? 2 : 0, durationNs: 3_400_000 + i * 1e6 } }, ls);
  }
  const curl = processOf(3, 2, 600, '/usr/bin/curl', ['-s', 'https://10.1.2.3/<img src=x onerror=alert(1)>', 'line\nbreak']);
  await happen(fixture, 'exec', { sequence: 30, exec: { rawPath: 'curl' } }, curl);
  await happen(fixture, 'connect', { sequence: 31, connect: { destinationIp: '10.1.2.3', destinationPort: 443 } }, curl);
  await happen(fixture, 'exec', { sequence: 32, exec: {} }, processOf(3, 2, 610, '/usr/bin/python3', ['app.py']), { recorded: true });
}

test('the page shows events as they happen, with their processes', { skip }, async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  await using opened = await open(fixture);
  const { page } = opened;
  await page.locator('tbody tr').nth(26).waitFor();
  await happen(fixture, 'exec', { sequence: 40, exec: {} }, processOf(3, 2, 700, '/usr/bin/whoami'));
  await page.locator('tbody tr', { hasText: '/usr/bin/whoami' }).waitFor();
  assert.equal(await page.locator('tbody tr').count(), 28);
  assert.match((await page.locator('tbody tr').first().textContent()) ?? '', /whoami/);
  const recorded = page.locator('tbody tr', { hasText: 'python3' }).locator('.badge.recorded');
  const [badge, cell] = [await recorded.boundingBox(), await recorded.locator('..').boundingBox()];
  assert.ok(badge && cell && badge.x + badge.width <= cell.x + cell.width, 'the badge is not cut off');
  // What a process calls itself is text, and its control characters show.
  assert.match(
    (await page.locator('tbody tr', { hasText: 'curl' }).last().textContent()) ?? '',
    /<img src=x onerror=alert\(1\)> line\\u000abreak/,
  );

  await happen(fixture, 'loss', { sequence: 41, process: 0, loss: { reason: LossReason.LOSS_REASON_RING_FULL, count: 17 } }, INIT);
  await page.locator('#lost', { hasText: '17 lost' }).waitFor();

  await page.locator('tbody tr', { hasText: 'curl' }).last().click();
  await page.locator('#tree .here').waitFor();
  const tree = (await page.locator('#tree').innerText()).split('\n').map(line => line.trim());
  assert.match(tree[0]!, /^\/sbin\/init 1$/);
  assert.match(tree[1]!, /^\/bin\/bash -l 412$/);
  assert.match(tree[2]!, /^\/usr\/bin\/curl .* 600$/);
  if (PICTURES) await page.screenshot({ path: join(PICTURES, 'page-light.png') });
  assert.deepEqual(opened.complaints, []);
});

test('filters and pause', { skip }, async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  await using opened = await open(fixture, '/?kind=exec', 'dark');
  const { page } = opened;
  await page.locator('tbody tr').nth(13).waitFor();
  assert.equal(await page.locator('tbody tr[data-kind=exit]').count(), 0);
  if (PICTURES) await page.screenshot({ path: join(PICTURES, 'page-dark.png') });

  await page.getByLabel('Binary').fill('/usr/bin/curl');
  await page.getByRole('button', { name: 'Apply' }).click();
  await waitFor(async () => (await page.locator('tbody tr').count()) === 1, { what: 'the filter' });
  assert.match(page.url(), /kind=exec&binary=/);
  await page.getByLabel('Binary').fill('!/usr/bin/*');
  await page.getByLabel('Container').fill('!web');
  await page.getByRole('button', { name: 'Apply' }).click();
  await waitFor(async () => (await page.locator('tbody tr').count()) === 0, { what: 'everything to be left out' });
  await page.getByLabel('Container').fill('');
  await page.getByLabel('Kind').fill('dance');
  await page.getByRole('button', { name: 'Apply' }).click();
  await page.locator('#fault', { hasText: 'kind: expected kinds among exec' }).waitFor();
  await page.getByLabel('Kind').fill('');
  await page.getByLabel('Binary').fill('');
  await page.getByRole('button', { name: 'Apply' }).click();
  await waitFor(async () => (await page.locator('tbody tr').count()) === 27, { what: 'all events' });
  await page.locator('#state[data-state=live]').waitFor();

  await page.getByRole('button', { name: 'Pause' }).click();
  await happen(fixture, 'exec', { sequence: 50, exec: {} }, processOf(3, 2, 800, '/usr/bin/id'));
  await page.getByRole('button', { name: 'Resume (1)' }).waitFor();
  assert.equal(await page.locator('tbody tr').count(), 27);
  await page.getByRole('button', { name: 'Resume' }).click();
  await page.locator('tbody tr', { hasText: '/usr/bin/id' }).waitFor();
  // The 400 that tells what is wrong with a filter is the one thing that the browser may mention.
  assert.deepEqual(
    opened.complaints.filter(complaint => !complaint.includes('400 (Bad Request)')),
    [],
  );
});
