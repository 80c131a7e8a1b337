// A person on call, in a browser: each step is something they do, and fails with what they would have seen.
//
//   BASE        where the dashboard is
//   SHOTS       a folder for pictures
//   MALICE      a word that stands in everything hostile that the test has put into the shop
//   KEY         the key of a message that payment-service has parked
//   CHROMIUM    the browser
//   TOKEN       where somebody must log in: with this
//
// What goes wrong anywhere fails the walk: an error on the console, a dialog, a request to another host,
// something hostile that ran.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const { BASE, SHOTS, MALICE, KEY, CHROMIUM, TOKEN } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SOON = 20_000;

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-component-update", "--disable-background-networking"],
});
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
context.setDefaultTimeout(SOON);
await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: BASE });

const wrong = [];
let expected = null;
function watch(page) {
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    // A page that is answered with 404 on purpose says so on the console.
    if (expected && message.text().includes(expected)) return;
    wrong.push(`console: ${message.text()} at ${message.location().url}`);
  });
  page.on("pageerror", (error) => wrong.push(`script: ${error}`));
  page.on("dialog", async (dialog) => {
    if (!dialog.message().startsWith("Discard for good")) wrong.push(`dialog: ${dialog.message()}`);
    await dialog.accept();
  });
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(BASE).origin) wrong.push(`foreign request: ${request.url()}`);
  });
}

const page = await context.newPage();
watch(page);

function must(holds, what) {
  if (!holds) throw new Error(what);
}

async function go(path, status = 200) {
  expected = status === 200 ? null : String(status);
  const answer = await page.goto(BASE + path, { waitUntil: "load" });
  must(answer.status() === status, `${path} answered ${answer.status()}, not ${status}`);
  return answer;
}

async function api(path, options = {}) {
  const headers = { "Content-Type": "application/json", ...options.headers };
  if (TOKEN) headers.Authorization = `Bearer ${TOKEN}`;
  const answer = await fetch(BASE + path, { ...options, headers });
  must(answer.ok, `${path} answered ${answer.status}: ${await answer.clone().text()}`);
  return answer.json();
}

async function accessible(what) {
  // Evaluated, not added: the page's own policy forbids scripts it does not serve.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const told = serious.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => `${node.html} ${node.any.map((any) => any.message).join(" ")}`).join(" | ")}`);
  must(told.length === 0, `${what} is hard to use for some: ${told.join("\n")}`);
}

async function inert(what) {
  must(!(await page.evaluate(() => window.hostile)), `${what}: something hostile ran`);
  const text = await page.content();
  must(!/<(script|img|svg|b)[^>]*hostile/i.test(text), `${what}: hostile markup is markup there`);
}

async function shot(name) {
  await page.screenshot({ path: `${SHOTS}/${name}.png` });
}

async function step(what, walk) {
  try {
    await walk();
    must(wrong.length === 0, wrong.join("\n"));
    console.log(`ok  ${what}`);
  } catch (error) {
    console.error(`not ok  ${what}\n${error.stack}\n${wrong.join("\n")}\nat ${page.url()}`);
    await page.screenshot({ path: `${SHOTS}/failed.png` }).catch(() => {});
    await browser.close();
    process.exit(1);
  }
}

const status = () => page.locator("#state .state .badge").first();
const BEEF = "018f0000-0000-7000-8000-00000000beef";
const order = (payment_method, postcode = "10115", name = "Ada Lovelace", customer_id = BEEF) => ({
  method: "POST",
  body: JSON.stringify({
    customer_id, currency: "EUR",
    items: [{ sku: "BOOK-1", quantity: 1, unit_price: 1250 }], payment_method,
    delivery: { name, street: name, postcode, city: name, country: "DE" },
  }),
});

if (TOKEN) {
  await step("is led to the login, and back to where they wanted to go", async () => {
    await page.goto(`${BASE}/sagas?status=running`);
    must(new URL(page.url()).pathname === "/login", `not at the login but at ${page.url()}`);
    await accessible("the login");
    await shot("login");
    expected = "401";
    await page.getByLabel("Token").fill("not-the-token");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByText("not known here").waitFor();
    expected = null;
    await page.getByLabel("Token").fill(TOKEN);
    await page.getByRole("button", { name: "Log in" }).click();
    await page.waitForURL((url) => url.pathname === "/sagas" && url.search === "?status=running");
    const cookies = await context.cookies();
    must(cookies.length === 1 && cookies[0].httpOnly && cookies[0].sameSite === "Strict", `cookies: ${JSON.stringify(cookies)}`);
  });
}

let failing;
await step("places an order that fails, and watches its compensation without touching anything", async () => {
  await go("/");
  await page.getByRole("button", { name: "Never answers" }).click();
  await page.waitForURL(/\/sagas\/[0-9a-f-]{36}$/);
  failing = page.url().split("/").pop();
  must((await status().textContent()) === "running", "the saga is over before it can be seen");
  await page.getByText(/waiting for authorize/i).first().waitFor();
  must((await page.locator(".until").first().textContent()) !== "", "nothing is counted down");
  await shot("saga-waiting");
  await page.evaluate(() => { window.sameDocument = true; });
  await status().filter({ hasText: "compensated" }).waitFor({ timeout: 60_000 });
  must(await page.evaluate(() => window.sameDocument), "the page was loaded again");
  must((await page.locator("polygon.bar.undo").count()) > 0, "nothing is drawn backwards");
  await accessible("a saga's page");
  await shot("saga");
});

await step("reads an event's JSON, and copies the question as curl", async () => {
  await page.locator("#event-1 summary").click();
  const json = JSON.parse(await page.locator("#event-1 pre").textContent());
  must(json.type === "started", `the first event is ${json.type}`);
  await page.locator("section[aria-labelledby=events]").getByRole("button", { name: "Copy as curl" }).click();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  must(copied === `curl -s ${BASE}/v1/sagas/${failing}/events`, `copied: ${copied}`);
});

await step("sees why an operation is not possible", async () => {
  const cancel = page.locator("#operations .refused", { hasText: "Cancel" });
  must(await cancel.getByRole("button").isDisabled(), "a saga that is over can be cancelled");
  must((await cancel.locator("small").textContent()).length > 5, "no reason is given");
});

await step("asks what cancelling would do, then cancels; what they typed stays while the page lives", async () => {
  const { saga_id } = await api("/v1/orders", order("pm_timeout"));
  // It waits for us: of a saga that moves on meanwhile the service says so, and the person asks again.
  const operate = (operation) => api(`/v1/sagas/${saga_id}/operations`, {
    method: "POST",
    headers: { "Idempotency-Key": `${operation}-${saga_id}` },
    body: JSON.stringify({ operation, actor: "the walk", reason: "to look at it" }),
  });
  await operate("pause");
  await go(`/sagas/${saga_id}`);
  await page.locator("#do-cancel > summary").click();
  const form = page.locator("#do-cancel");
  if (!TOKEN) await form.getByLabel("Your name").fill(`ann <img src=x onerror="window.hostile=1">`);
  await form.getByLabel("Reason").fill(`<script>window.hostile=1</script>`);
  await form.getByRole("button", { name: "What would happen?" }).click();
  await page.locator("#outcome").getByText("This would happen").waitFor();
  must((await api(`/v1/sagas/${saga_id}`)).status === "running", "a dry run did something");
  await form.getByRole("button", { name: "Cancel" }).click();
  await page.locator("#outcome").getByText("Done.").waitFor();
  await operate("resume");
  await status().filter({ hasText: "compensated" }).waitFor({ timeout: 60_000 });
  await inert("a saga's page with a hostile name and reason");
});

await step("filters the list; the URL keeps the filter", async () => {
  await go("/sagas");
  await page.locator(".chip b").first().waitFor();
  await page.getByRole("link", { name: /^compensated/ }).click();
  await page.waitForURL(/status=compensated/);
  const badges = await page.locator("#rows tbody td:nth-child(2) .badge:first-child").allTextContents();
  must(badges.length > 0 && badges.every((badge) => badge === "compensated"), `shown: ${badges}`);
  await page.getByLabel("Definition").fill("no-such-definition");
  await page.getByRole("button", { name: "Filter" }).click();
  await page.waitForURL(/definition=no-such-definition/);
  must(page.url().includes("status=compensated"), `the status is lost: ${page.url()}`);
  await page.getByText("No saga is like that.").waitFor();
  await accessible("an empty list");
});

await step("follows a deep link into a filtered list, and to an event", async () => {
  await go("/sagas?status=compensated&definition=order-fulfilment&stuck_for=");
  must((await page.getByLabel("Definition").inputValue()) === "order-fulfilment", "the filter is not shown");
  must((await page.locator("#rows tbody tr").count()) > 0, "the list is empty");
  await page.goto(`${BASE}/sagas/${failing}#event-2`);
  must(await page.locator("#event-2").evaluate((details) => details.open), "the event linked to is not open");
});

await step("watches the list; it stands still while they point at it", async () => {
  await go("/sagas");
  await page.mouse.move(5, 5);
  await page.locator("#rows").waitFor();
  const first = await api("/v1/orders", order("pm_card_visa"));
  const row = (id) => page.locator(`#rows a[href="/sagas/${id}"]`);
  await row(first.saga_id).waitFor();
  await page.locator("#rows").hover();
  const second = await api("/v1/orders", order("pm_card_visa"));
  await page.getByText("Paused while you read").waitFor();
  must((await row(second.saga_id).count()) === 0, "the list moved under the pointer");
  await page.mouse.move(5, 5);
  await row(second.saga_id).waitFor();
  await accessible("the list");
  await shot("sagas");
});

await step("keeps many tabs open; those they do not see take no connection from the others", async () => {
  const hide = (tab, hidden) => tab.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  const tabs = [];
  // A browser has six connections for a site.
  for (let number = 0; number < 7; number += 1) {
    const tab = await context.newPage();
    watch(tab);
    await tab.goto(`${BASE}/sagas`, { waitUntil: "load" });
    await tab.locator("#rows").waitFor();
    await hide(tab, true);
    tabs.push(tab);
  }
  const { saga_id } = await api("/v1/orders", order("pm_card_visa"));
  const row = (tab) => tab.locator(`#rows a[href="/sagas/${saga_id}"]`);
  must((await row(tabs[0]).count()) === 0, "a tab that nobody sees is live");
  // Seen again it has what it missed, and what comes.
  await hide(tabs[0], false);
  await row(tabs[0]).waitFor();
  const next = await api("/v1/orders", order("pm_card_visa"));
  await tabs[0].locator(`#rows a[href="/sagas/${next.saga_id}"]`).waitFor();
  await Promise.all(tabs.map((tab) => tab.close()));
});

// By its key: others may be parked there too.
const parked = `/parked?service=payment-service&key=${encodeURIComponent(KEY)}`;
await step("finds what is parked, counts it, replays it, looks into it, discards it", async () => {
  await go(parked);
  const rows = page.locator(".bulk tbody tr");
  must((await rows.count()) >= 1, "nothing is parked");
  await inert("the parked messages");
  await accessible("the parked messages");
  await shot("parked");
  const name = await rows.first().locator("a").textContent();
  const tries = async () => Number(await rows.first().locator("td").last().textContent());
  // None where it was refused before anybody handled it.
  const triedBefore = await tries();
  await rows.first().getByRole("checkbox").check();
  const act = async (button, told) => {
    if (!TOKEN) await page.getByLabel("Your name").fill("ann");
    await page.getByLabel("Reason", { exact: true }).last().fill("the sender is mended");
    await page.getByRole("button", { name: button, exact: true }).click();
    await page.locator("#outcome-payment-service").getByText(told).waitFor();
  };
  await act("Count first", "1 messages would be replayed");
  const before = await api(`/v1/sagas?limit=1`);
  must(before.items.length === 1, "the API answers");
  await act("Replay", "1 messages will be replayed");
  // It is as unreadable as before: handled again, and parked again.
  const deadline = Date.now() + SOON;
  for (;;) {
    await go(parked);
    const tried = await tries();
    if (tried > triedBefore) break;
    must(Date.now() < deadline, `it was never tried again; tried ${tried}`);
    await page.waitForTimeout(200);
  }
  await rows.first().locator("a").click();
  await page.getByRole("heading", { level: 1 }).waitFor();
  await page.getByRole("link", { name: "Show it" }).click();
  await page.getByText(MALICE).first().waitFor();
  await inert("a parked message with its payload");
  await accessible("a parked message");
  await go(parked);
  await page.getByLabel(/not only the chosen/).check();
  await act("Discard", "were discarded");
  await go(parked);
  await page.getByText("Nothing is parked").waitFor();
  must(name.length > 0, "the message has a name");
});

// Sagas of a new customer that stand still until somebody resumes them.
async function paused(customer) {
  const { saga_id } = await api("/v1/orders", order("pm_timeout", "10115", "Ada Lovelace", customer));
  const headers = { "Idempotency-Key": crypto.randomUUID() };
  const body = JSON.stringify({ operation: "pause", actor: "ann", reason: "to look at it" });
  await api(`/v1/sagas/${saga_id}/operations`, { method: "POST", headers, body });
}

function resumeAll(customer, per_second) {
  const headers = { "Idempotency-Key": crypto.randomUUID() };
  const selection = { tag: `customer:${customer}` };
  const body = { operation: "resume", actor: "ann", reason: "seen", selection, per_second, allow_changed: true };
  return api("/v1/bulk-operations", { method: "POST", headers, body: JSON.stringify(body) });
}

let bulk;
await step("does something to all of a filtered list: counts, is refused when it has changed, counts again, watches it", async () => {
  const customer = crypto.randomUUID();
  await paused(customer);
  await paused(customer);
  await go(`/sagas?tag=${encodeURIComponent(`customer:${customer}`)}`);
  await page.getByRole("link", { name: "Do something to all of these" }).click();
  await page.getByRole("heading", { name: "Something for many sagas" }).waitFor();
  await page.getByText(`customer:${customer}`).waitFor();
  await accessible("the form for many sagas");
  const form = page.locator("#bulk");
  await form.getByLabel("Operation").selectOption("resume");
  if (!TOKEN) await form.getByLabel("Your name").fill("ann");
  await form.getByLabel("Reason").fill(`a mistake <script>${MALICE}</script>`);
  await form.getByLabel("Sagas a second").fill("1");
  await form.getByLabel("also those that move on").check();
  await form.getByRole("button", { name: "Count first" }).click();
  const start = (count) => page.locator("#counted").getByRole("button", { name: `Resume: ${count} sagas` });
  await start(2).waitFor();
  must((await page.locator("#counted li", { hasText: "would be done" }).count()) === 2, "not both would be done");
  await accessible("what would become of them");
  await shot("bulk-counted");
  // One more than was counted: it is refused, in words.
  await paused(customer);
  expected = "409";
  await start(2).click();
  await page.locator("#notice").getByText("3 sagas are selected now, not 2").waitFor();
  expected = null;
  await form.getByRole("button", { name: "Count first" }).click();
  await start(3).click();
  await page.waitForURL(/\/bulk-operations\/[0-9a-f-]{36}$/);
  bulk = new URL(page.url()).pathname;
  await page.evaluate(() => { window.sameDocument = true; });
  await page.mouse.move(5, 5);
  await page.locator("#progress .badge", { hasText: "running" }).first().waitFor();
  await page.getByText("3 of 3 have had their turn").waitFor();
  await page.locator("#progress .state .badge", { hasText: "done" }).waitFor();
  must(await page.evaluate(() => window.sameDocument), "the page was loaded again");
  must((await page.locator("#progress tbody .badge", { hasText: "done" }).count()) === 3, "not every saga was resumed");
  await inert("a bulk operation with a hostile reason");
  await accessible("a bulk operation");
  await shot("bulk");
  await page.getByRole("link", { name: /^refused/ }).click();
  await page.getByText("No saga is like that.").waitFor();
});

await step("stops a bulk operation before it is through", async () => {
  const customer = crypto.randomUUID();
  for (let placed = 0; placed < 12; placed += 1) await paused(customer);
  const { id } = await resumeAll(customer, 1);
  await go("/bulk-operations");
  await page.locator(`a[href="/bulk-operations/${id}"]`).click();
  await page.locator("#stop > summary").click();
  if (!TOKEN) await page.getByLabel("Your name").fill("ann");
  await page.getByLabel("Reason").fill("seen enough");
  await page.locator("#stop").getByRole("button", { name: "Stop it" }).click();
  await page.locator("#progress .state .badge", { hasText: "cancelled" }).waitFor();
  await page.getByText("seen enough").waitFor();
  must((await page.getByText("no turn yet").count()) > 0, "all of them had their turn");
  await accessible("a bulk operation that was stopped");
  await resumeAll(customer, 100);
  await go("/bulk-operations");
  await page.locator("#bulks tbody tr").first().waitFor();
  await accessible("the bulk operations");
});

await step("reads who did what, in every service, and what it was done to", async () => {
  await go("/audit?action=bulk.create");
  const rows = page.locator("section[aria-labelledby=of-order-service] tbody tr");
  await rows.filter({ hasText: "a mistake" }).first().waitFor();
  must((await rows.filter({ hasNotText: "bulk.create" }).count()) === 0, "the filter lets others pass");
  await inert("the audit with a hostile reason");
  await accessible("the audit");
  await shot("audit");
  await rows.filter({ hasText: "a mistake" }).locator(`a[href="${bulk}"]`).click();
  await page.waitForURL((url) => url.pathname === bulk);
  await page.getByRole("link", { name: "Audit" }).click();
  const neighbour = page.locator("section[aria-labelledby=of-payment-service]");
  // It asks nobody, so whoever comes with a token is known there by his name alone.
  await neighbour.getByText("parked.discard").first().waitFor();
  await page.getByLabel("Actor").fill("nobody-of-this-name");
  await page.getByRole("button", { name: "Filter" }).click();
  await page.waitForURL(/actor=nobody-of-this-name/);
  await page.getByText("Nobody did anything like that.").first().waitFor();
  await go("/audit?limit=1&service=order-service");
  const first = await rows.first().locator("td").first().textContent();
  await page.getByRole("link", { name: "Older ones" }).click();
  await page.waitForURL(/cursor=/);
  const second = await rows.first().locator("td").first().textContent();
  must(Number(second) < Number(first), `${second} is not older than ${first}`);
});

await step("finds hostile words everywhere, and nothing of them runs", async () => {
  const hostile = `<img src=x onerror=window.hostile=1>`;
  const { saga_id } = await api("/v1/orders", order("pm_card_visa", "10115", hostile));
  await go(`/sagas/${saga_id}`);
  await status().filter({ hasText: "completed" }).waitFor();
  await page.locator("#data summary").click();
  await page.locator("#data pre", { hasText: "onerror" }).waitFor();
  await inert("a saga with hostile data");
  const odd = encodeURIComponent(`"><script>window.hostile=1</script>`);
  for (const [path, answer] of [
    [`/sagas/${odd}`, 404], [`/sagas?definition=${odd}&business_key=${odd}&tag=${odd}`, 400],
    [`/sagas?stuck_for=${odd}`, 400], [`/sagas?cursor=${odd}`, 400], [`/parked?key=${odd}&topic=${odd}`, 200],
    [`/parked?class=${odd}`, 200], [`/parked/payment-service/${odd}`, 404], [`/anomalies?cursor=${odd}`, 400],
    [`/audit?actor=${odd}&since=${odd}&subject=${odd}&cursor=${odd}&service=order-service`, 200],
    [`/bulk-operations/new?tag=${odd}`, 200], [`/bulk-operations/${odd}`, 404], [`${bulk}?result=${odd}&after=${odd}`, 400],
    [`/docs`, 200],
  ]) {
    await go(path, answer);
    await inert(path);
  }
  expected = null;
});

const pages = [
  "/", "/sagas", `/sagas/${failing}`, "/bulk-operations", "/bulk-operations/new?status=running", bulk, "/parked",
  "/definitions", "/anomalies", "/locks", "/audit",
];
await step("uses a phone", async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  for (const path of pages) {
    await go(path);
    const [wide, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    must(wide <= seen, `${path} is ${wide} wide on a phone of ${seen}`);
  }
  await go(`/sagas/${failing}`);
  await shot("phone");
  await page.setViewportSize({ width: 1280, height: 900 });
});

await step("works at night", async () => {
  await page.emulateMedia({ colorScheme: "dark" });
  for (const path of pages) {
    await go(path);
    await accessible(`${path} in the dark`);
  }
  await go(`/sagas/${failing}`);
  await shot("saga-dark");
  await page.emulateMedia({ colorScheme: "light" });
});

await step("sees how it is", async () => {
  await go("/");
  await page.locator(".tile").first().waitFor();
  await accessible("the overview");
  for (const service of ["order-service", "payment-service", "delivery-service", "notification-service"]) {
    const row = page.getByRole("row", { name: new RegExp(`^${service}`) });
    must(!/badge bad/.test(await row.innerHTML()), `${service} is not seen`);
  }
  await shot("overview");
});

await browser.close();
