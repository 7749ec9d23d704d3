/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  BUCKETS,
  Kind,
  LossReason,
  commandLine,
  encodeBatch,
  enricherMemberKey,
  printable,
  quoted,
  type EventBatchInput,
} from '@tidegate/contracts';
import { Kvm } from '@nats-io/kv';
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
    /'https:\/\/10\.1\.2\.3\/<img src=x onerror=alert\(1\)>' \$'line\\nbreak'$/,
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

  // What came into a container from outside says how, and can be asked for.
  const containers = [{ id: 1, containerId: 'c0ffee'.repeat(8) }];
  const who = { ...processOf(3, 2, 700, '/usr/bin/id', ['-u']), container: 1, entered: true, entryArguments: ['sh', '-c', 'id -u'] };
  await happen(fixture, 'exec', { sequence: 40, exec: {} }, who, { containers });
  await page.getByLabel('Entered').fill('exec,debug');
  await page.getByRole('button', { name: 'Apply' }).click();
  await waitFor(async () => (await page.locator('tbody tr').count()) === 1, { what: 'what entered' });
  await page.locator('tbody tr', { hasText: '-u (by exec)' }).click();
  await page.locator('#facts', { hasText: /exec: sh -c ['"]id -u['"]/ }).waitFor();
  await page.getByLabel('Entered').fill('!exec');
  await page.getByRole('button', { name: 'Apply' }).click();
  await waitFor(async () => (await page.locator('tbody tr').count()) === 27, { what: 'all the others' });
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

/** What a process may call itself to be taken for another, or for nothing. */
const HOSTILE = [
  '<b>bold</b>&lt;',
  '\u202egpj.exe',
  'a\u200bb\ufeff',
  '\u2066x\u2069',
  'line\nbreak\u2028and\u0085more',
  '\u001b]0;owned\u0007',
  '\u{e0041}\u{e0100}',
  'a\u00a0b\u3164',
  'שלום 12',
  "it's",
  ' ',
  '\\n',
];

test('whatever processes call themselves is shown, unmistakably, and as the command line shows it', { skip }, async () => {
  await using fixture = await startFixture();
  for (const [i, name] of HOSTILE.entries()) {
    const who = processOf(3, 2, 900 + i, `/tmp/${name}`, [name, `${name} ${name}`]);
    await happen(fixture, 'exec', { sequence: i + 1, exec: {} }, { ...who, cwd: `/srv/${name}` });
  }
  const raw = Buffer.from('/bin/sh\0a\xff\0gr\xc3\xbc\xc3\x9fe\0', 'latin1');
  const bytes = processOf(3, 2, 950, '/bin/sh', ['a\ufffd', 'grüße']);
  await happen(fixture, 'exec', { sequence: 50, exec: {} }, { ...bytes, rawArguments: raw });
  await using opened = await open(fixture);
  const { page } = opened;
  await page.locator('tbody tr').nth(HOSTILE.length).waitFor();
  const commands = await page.locator('td.what').allTextContents();
  const expected = HOSTILE.map(name => commandLine([`/tmp/${name}`, name, `${name} ${name}`]));
  assert.deepEqual(commands.toReversed(), [...expected, "/bin/sh $'a\\xff' 'grüße'"]);
  for (const [i, name] of HOSTILE.entries()) {
    await page.locator('tbody tr', { hasText: `(${900 + i})` }).click();
    await page.locator('#tree .here').waitFor();
    assert.equal(await page.locator('#title').textContent(), quoted(`/tmp/${name}`));
    assert.equal(await page.locator('#tree .here').textContent(), expected[i]);
    assert.equal(await factOf(page, 'Directory'), quoted(`/srv/${name}`));
    const shown = await page.evaluate(() => [
      ...[...document.querySelectorAll('[title]')].map(({ attributes }) => attributes.getNamedItem('title')!.value),
      ...[...document.querySelectorAll('td, dd, h2, #tree span, pre')].flatMap(({ textContent }) => textContent.split('\n')),
    ]);
    for (const line of shown) assert.equal(line, printable(line));
  }
  assert.deepEqual(opened.complaints, []);
});

test('after a change of the filter nothing of the old one comes any more', { skip }, async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  await using opened = await open(fixture);
  const { page } = opened;
  await page.locator('tbody tr').nth(26).waitFor();
  // The check of the new filter is held up while events of the old one happen.
  const { promise: heldUp, resolve: goOn } = Promise.withResolvers<void>();
  await page.route(/\/api\/v1\/events\?kind=exit&limit=1$/, async route => {
    await heldUp;
    await route.continue();
  });
  await using other = await open(fixture);
  await page.getByLabel('Kind').fill('exit');
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.getByRole('button', { name: 'Apply' }).click();
  await happen(fixture, 'exec', { sequence: 60, exec: {} }, processOf(3, 2, 990, '/usr/bin/late'));
  await other.page.locator('tbody tr', { hasText: '/usr/bin/late' }).waitFor();
  // Whatever has arrived is painted.
  await page.evaluate(async () => new Promise(painted => requestAnimationFrame(() => requestAnimationFrame(painted))));
  assert.equal(await page.locator('tbody tr').count(), 0);
  goOn();
  await page.locator('tbody tr').nth(11).waitFor();
  assert.equal(await page.locator('tbody tr:not([data-kind=exit])').count(), 0);
  assert.equal(await page.getByRole('button', { name: 'Pause' }).count(), 1, 'what was asked for anew is shown');
  assert.deepEqual(opened.complaints, []);
});

test('what cannot be read is said, and events go on', { skip }, async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  await using opened = await open(fixture, '/?kind=exit');
  const { page } = opened;
  await page.locator('tbody tr').nth(11).waitFor();
  const busy = { status: 503, json: { error: { code: 'BUSY', message: 'too much is asked at one time' } } };
  await page.route(/\/api\/v1\/events\?.*limit=100$/, route => route.fulfill(busy));
  await page.route(/\/api\/v1\/processes\//, route => route.abort());
  await page.getByLabel('Kind').fill('exec');
  await page.getByRole('button', { name: 'Apply' }).click();
  await page
    .locator('#fault', { hasText: 'Earlier events could not be read, only new ones are shown: too much is asked at one time' })
    .waitFor();
  await happen(fixture, 'exec', { sequence: 70, exec: {} }, processOf(3, 2, 991, '/usr/bin/next'));
  await page.locator('tbody tr', { hasText: '/usr/bin/next' }).click();
  await page.locator('#tree .bad', { hasText: 'More of the tree could not be read: the API cannot be reached' }).waitFor();
  assert.match(await page.locator('#tree').innerText(), /\/bin\/bash -l 412/);

  // The check of a filter that gets no answer is tried again.
  await page.unroute(/\/api\/v1\/events\?.*limit=100$/);
  await page.route(/\/api\/v1\/events\?.*limit=1$/, route => route.fulfill(busy), { times: 1 });
  await page.getByRole('button', { name: 'Apply' }).click();
  await page.locator('#state', { hasText: 'disconnected: too much is asked at one time' }).waitFor();
  await page.locator('#state[data-state=live]').waitFor();
  await page.locator('tbody tr').nth(14).waitFor();
  assert.equal(await page.locator('#fault').isVisible(), false);
  assert.deepEqual(
    opened.complaints.filter(complaint => !/503 \(Service Unavailable\)|net::ERR_FAILED/.test(complaint)),
    [],
  );
});

test('on a narrow screen, and beside the panel, all of an event can be read', { skip }, async () => {
  await using fixture = await startFixture();
  await fill(fixture);
  await using opened = await open(fixture);
  const { page } = opened;
  const isCutOff = () =>
    page.evaluate(() =>
      [...document.querySelectorAll('html, #scroll, header, form, td.what, td.process')]
        .filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)
        .map(({ outerHTML }) => outerHTML.slice(0, 200)),
    );
  for (const width of [360, 1000]) {
    await page.setViewportSize({ width, height: 800 });
    await page.locator('tbody tr').nth(26).waitFor();
    const row = page.locator('tbody tr', { hasText: '<img' });
    if (width === 1000) await row.click();
    await page.locator('#scroll').evaluate(element => element.scrollTo(0, 0));
    assert.deepEqual(await isCutOff(), []);
    if (PICTURES) await page.screenshot({ path: join(PICTURES, `page-${width}.png`) });
  }
  await page.locator('tbody tr').last().click();
  const [list, selected] = [await page.locator('#scroll').boundingBox(), await page.locator('tr[aria-selected]').boundingBox()];
  assert.ok(
    list && selected && selected.y >= list.y && selected.y + selected.height <= list.y + list.height,
    'what was chosen stays in sight',
  );
  assert.deepEqual(opened.complaints, []);
});

test('what the status says is wrong stands above the events', { skip }, async () => {
  await using fixture = await startFixture();
  await using opened = await open(fixture);
  const { page } = opened;
  await page.getByText('2 problems').click();
  const listed = await page.locator('#problems li').allInnerTexts();
  assert.deepEqual(listed, ((await fixture.get('/api/v1/status')).body as { problems: string[] }).problems);
  assert.ok(listed.includes('no enricher is alive'));

  const enrichers = await new Kvm(fixture.nc).open(BUCKETS.enrichers.name);
  await page.reload();
  await page.getByText('2 problems').waitFor();
  await waitFor(
    async () => {
      await enrichers.put(enricherMemberKey('e1'), JSON.stringify({ startedAt: new Date().toISOString() }));
      await page.reload();
      return page.getByText('1 problem', { exact: true }).isVisible();
    },
    { what: 'one problem to go' },
  );
  assert.deepEqual(opened.complaints, []);
});

test('the description of the API is shown without a breach of its content security policy', { skip }, async () => {
  await using fixture = await startFixture();
  await using opened = await open(fixture);
  const { page } = opened;
  await page.getByRole('link', { name: 'API' }).click();
  await page.locator('.opblock', { hasText: '/api/v1/events/live' }).click();
  await page.locator('.opblock.is-open .opblock-body').waitFor();
  await page.waitForLoadState('networkidle');
  if (PICTURES) await page.screenshot({ path: join(PICTURES, 'docs.png') });
  assert.deepEqual(opened.complaints, []);
});

async function factOf(page: Page, name: string): Promise<string | null> {
  return page.locator(`dt:text-is("${name}") + dd`).textContent();
}
