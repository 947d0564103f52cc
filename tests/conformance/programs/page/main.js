// Visits the server's page with Chromium, and reports what it saw; ../../test_page.py judges.
// Usage: node main.js TASK REPORT, two files of JSON.
"use strict";

const { execFileSync } = require("node:child_process");
const fs = require("node:fs");

const axe = require("axe-core");
const { chromium } = require("playwright-core");

const [taskPath, reportPath] = process.argv.slice(2);
const task = JSON.parse(fs.readFileSync(taskPath, "utf8"));
const WIDE = { width: 1280, height: 900 };
const NARROW = { width: 390, height: 844 };
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

// Whatever is wrong on every page: requests to elsewhere, errors, what axe finds, what is too wide.
const faults = [];

// Counts the runs that are in flight, and how long each takes until the page has shown it.
function countRuns() {
  const runs = { flying: 0, most: 0, done: 0, ms: [], polls: 0 };
  globalThis.runs = runs;
  const real = globalThis.fetch;
  globalThis.fetch = async (...asked) => {
    if (String(asked[0]).endsWith("/overview")) runs.polls += 1;
    if (!String(asked[0]).endsWith("/run")) return real(...asked);
    runs.flying += 1;
    runs.most = Math.max(runs.most, runs.flying);
    const began = performance.now();
    try {
      const response = await real(...asked);
      const json = response.json.bind(response);
      response.json = async () => {
        const body = await json();
        // After what the page does with the answer.
        setTimeout(() => runs.ms.push(performance.now() - began));
        return body;
      };
      return response;
    } finally {
      runs.flying -= 1;
      runs.done += 1;
    }
  };
}

async function opened(browser, options = {}) {
  const context = await browser.newContext({ viewport: WIDE, ...options });
  await context.addInitScript(countRuns);
  await context.addInitScript({ content: axe.source });
  const page = await context.newPage();
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${task.address}/`) && !/^(data|about):/.test(url)) faults.push(`request: ${url}`);
  });
  page.on("console", (message) => {
    const wanted = /status of (\d+)/.exec(message.text())?.[1] === task.refused;
    if (["error", "warning"].includes(message.type()) && !wanted) {
      faults.push(`console: ${message.text()}`);
    }
  });
  page.on("pageerror", (error) => faults.push(`error: ${error.stack}`));
  return page;
}

// Opens a view by the part of its address after #, and waits until it has its answers.
async function go(page, hash) {
  // Another part after # alone would be the same page, with what it shows still there.
  await page.goto("about:blank");
  await page.goto(`${task.address}/#${hash}`);
  await page.locator("#live", { hasText: "live" }).waitFor();
  if (hash.startsWith("/models/")) await page.locator(".took", { hasText: "answered" }).waitFor();
  else await page.locator(".card, .tile").first().waitFor();
  await settled(page);
}

// Waits until no run is in flight, and none begins.
async function settled(page) {
  let before = -1;
  for (let quiet = 0; quiet < 3; ) {
    const { flying, done } = await page.evaluate(() => ({ flying: runs.flying, done: runs.done }));
    quiet = flying === 0 && done === before ? quiet + 1 : 0;
    before = done;
    await page.waitForTimeout(60);
  }
}

async function examine(page, where) {
  const found = await page.evaluate(
    (values) => globalThis.axe.run(document, { runOnly: { type: "tag", values } }),
    RULES
  );
  if (found.passes.length < 20) faults.push(`axe: ${where}: it examined next to nothing`);
  for (const { id, help, nodes } of found.violations) {
    faults.push(`axe: ${where}: ${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 200)).join(" | ")}`);
  }
  const [needs, has] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  if (needs > has) faults.push(`too wide: ${where}: ${needs} of ${has} pixels`);
}

// All numbers that are shown, by their place: of bars, of the table of all values, of inputs.
function numbers(page) {
  return page.evaluate(() => {
    const read = (selector, text) =>
      Object.fromEntries([...document.querySelectorAll(selector)].map((each) => [each.dataset.place, text(each)]));
    return {
      bars: read(".bar-value", (each) => each.dataset.value),
      all: read(".tables [data-place]", (each) => each.dataset.value),
      inputs: read(".field input.number", (each) => each.value),
      verdicts: [...document.querySelectorAll(".verdict:not([hidden])")].map((each) => each.textContent),
    };
  });
}

async function shownAll(page) {
  await page.evaluate(() => {
    for (const details of document.querySelectorAll("main details")) details.open = true;
    for (const button of document.querySelectorAll("main button")) {
      if (button.textContent.startsWith("Show all")) button.click();
    }
  });
  await settled(page);
}

const visits = {
  // Every view, light and dark, wide and narrow.
  async views(browser) {
    const seen = [];
    for (const colorScheme of ["light", "dark"]) {
      for (const viewport of [WIDE, NARROW]) {
        const page = await opened(browser, { colorScheme, viewport });
        for (const hash of task.hashes) {
          await go(page, hash);
          if (hash.startsWith("/models/")) await shownAll(page);
          await settled(page);
          await examine(page, `${hash}, ${colorScheme}, ${viewport.width}`);
          const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
          seen.push({ hash, colorScheme, width: viewport.width, ground, title: await page.title(), text: await page.locator("main").innerText() });
        }
        await page.context().close();
      }
    }
    return { seen };
  },

  // The numbers of each stored sample of each model.
  async numbers(browser) {
    const page = await opened(browser);
    const seen = [];
    for (const name of task.models) {
      await go(page, `/models/${encodeURIComponent(name)}`);
      await shownAll(page);
      const choice = page.getByLabel("Row", { exact: true });
      const samples = await choice.locator("optgroup[label='stored in the file'] option").allInnerTexts();
      for (const sample of samples.length ? samples : [null]) {
        if (sample !== null) await choice.selectOption({ label: sample });
        await settled(page);
        seen.push({ name, sample, ...(await numbers(page)) });
      }
    }
    return { seen };
  },

  // Models of every kind of input: each shows an answer, or why there is none.
  async kinds(browser) {
    const page = await opened(browser);
    const seen = {};
    for (const name of task.models) {
      await page.goto("about:blank");
      await page.goto(`${task.address}/#/models/${encodeURIComponent(name)}`);
      await page.locator(".took:not(:empty), main .notice:visible").first().waitFor();
      await settled(page);
      for (const box of await page.locator(".field input.number, .inputs div > textarea").all()) {
        if (!(await box.isVisible())) continue;
        await box.fill("1");
      }
      await settled(page);
      await shownAll(page);
      const notices = await page.locator("main .notice:visible").allInnerTexts();
      seen[name] = { ...(await numbers(page)), notices };
    }
    return { seen };
  },

  // What a hand does: keys alone, from the start to another answer.
  async keyboard(browser) {
    const page = await opened(browser);
    await go(page, "/");
    const stops = [];
    const focused = () =>
      page.evaluate(() => {
        const at = document.activeElement;
        const styles = [getComputedStyle(at), getComputedStyle(at, "::after")];
        return {
          tag: at.tagName,
          name: at.getAttribute("aria-label") ?? at.labels?.[0]?.textContent ?? at.textContent.trim(),
          outlined: styles.some((style) => style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0),
        };
      });
    const until = async (wanted) => {
      for (let presses = 0; presses < 200; presses += 1) {
        await page.keyboard.press("Tab");
        const stop = await focused();
        stops.push(stop);
        if (wanted(stop)) return;
      }
      throw new Error(`no stop of the Tab key is what was looked for: ${JSON.stringify(stops)}`);
    };
    await until(({ name }) => name === task.model);
    await page.keyboard.press("Enter");
    await page.locator(".took", { hasText: "answered" }).waitFor();
    await settled(page);
    const heading = await focused();
    const before = await numbers(page);
    await until(({ tag, name }) => tag === "INPUT" && name.endsWith("slider"));
    for (let presses = 0; presses < 5; presses += 1) await page.keyboard.press("ArrowRight");
    await settled(page);
    const after = await numbers(page);
    await go(page, `/models/${task.image}`);
    await shownAll(page);
    const blank = await numbers(page);
    const board = page.locator(".board");
    await until(({ name }) => name.includes("arrows move"));
    for (const key of ["ArrowRight", "ArrowDown", " ", "ArrowRight", " "]) await page.keyboard.press(key);
    await settled(page);
    const said = await page.locator(".image > [aria-live]").innerText();
    return { stops, heading, before, after, blank, drawn: await numbers(page), said, board: await board.count() };
  },

  // Strokes of a pointer that is seen at their corners alone, given in pixels of the board.
  async draw(browser) {
    const page = await opened(browser);
    await go(page, `/models/${task.model}`);
    const seen = {};
    for (const [name, [first, ...others]] of Object.entries(task.strokes)) {
      await page.getByRole("button", { name: "Clear" }).click();
      const surface = page.locator(".board canvas");
      await surface.scrollIntoViewIfNeeded();
      const box = await surface.boundingBox();
      const to = ([x, y]) => page.mouse.move(box.x + (x + 0.5) * (box.width / task.width), box.y + (y + 0.5) * (box.height / task.width));
      await to(first);
      await page.mouse.down();
      for (const corner of others) await to(corner);
      await page.mouse.up();
      await settled(page);
      seen[name] = (await numbers(page)).bars;
    }
    return { seen };
  },

  // 60 changes a second over a large network.
  async speed(browser) {
    const page = await opened(browser);
    await go(page, `/models/${task.model}`);
    await page.getByLabel("Search").fill("X[77");
    const found = await page.locator(".field label").allInnerTexts();
    await page.getByLabel("Search").fill("");
    await page.evaluate(() => Object.assign(runs, { most: 0, done: 0, ms: [] }));
    const changes = await page.evaluate(async () => {
      const slider = document.querySelector(".field input[type=range]");
      const [low, high] = [Number(slider.min), Number(slider.max)];
      const began = performance.now();
      for (let change = 1; change <= 180; change += 1) {
        slider.value = low + ((high - low) * change) / 181;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        const wait = began + (change * 1000) / 60 - performance.now();
        await new Promise((resume) => setTimeout(resume, Math.max(0, wait)));
      }
      return { seconds: (performance.now() - began) / 1000 };
    });
    await settled(page);
    const counted = await page.evaluate(() => runs);
    await shownAll(page);
    return { found, ...changes, ...counted, ...(await numbers(page)) };
  },

  // Pinning, pasting, versions side by side, programs to copy.
  async work(browser) {
    const page = await opened(browser);
    await go(page, `/models/${task.model}`);
    await page.getByRole("button", { name: "Pin this row" }).click();
    await page.getByText("Paste a row").click();
    const pastes = [];
    for (const text of task.pastes) {
      await page.getByLabel("Numbers, or lines of CSV").fill(text);
      await page.getByRole("button", { name: "Use the row" }).click();
      await settled(page);
      const said = await page.locator(".fillers [role=status]").innerText();
      pastes.push({ said, ...(await numbers(page)) });
    }
    const notes = await page.locator(".bar-note").allInnerTexts();
    const outside = await page.locator(".outside .note").allInnerTexts();
    const card = await page.locator("[aria-labelledby=card-title]").innerText();
    await page.getByLabel(/The same row by version/).selectOption({ index: 1 });
    await page.locator(".comparison table").waitFor();
    const comparison = await page.locator(".comparison tbody tr").evaluateAll((rows) =>
      rows.map((row) => [...row.cells].map((cell) => cell.querySelector("[data-value]")?.dataset.value ?? cell.textContent))
    );
    await examine(page, "versions side by side");
    const programs = {};
    for (const language of ["Python", "curl", "grpcurl", "JavaScript"]) {
      await page.getByRole("radio", { name: language, exact: true }).check();
      programs[language] = await page.locator("pre code").evaluate((code) => code.textContent);
    }
    await page.getByRole("button", { name: "Copy" }).click();
    const copied = await page.getByText(/^(copied|selected)/).innerText();
    await page.getByRole("button", { name: "Back to the pinned row" }).click();
    await settled(page);
    const back = await numbers(page);
    // In a tab that nobody sees, nothing is asked.
    await page.evaluate(() => {
      Object.defineProperty(document, "hidden", { value: true });
      document.dispatchEvent(new Event("visibilitychange"));
    });
    await page.waitForTimeout(1500);
    const polls = await page.evaluate(() => runs.polls);
    await page.waitForTimeout(2500);
    return { card, pastes, notes, outside, comparison, programs, copied, back, hiddenPolls: (await page.evaluate(() => runs.polls)) - polls };
  },

  // A model that gets another version while it is looked at, and a row of somebody's.
  async swap(browser) {
    const page = await opened(browser);
    await go(page, `/models/${task.model}`);
    await page.locator(".field input.number").first().fill(task.number);
    await settled(page);
    const before = await numbers(page);
    execFileSync(task.command[0], task.command.slice(1), { stdio: "inherit" });
    await page.getByText("latest (2)").waitFor();
    await settled(page);
    return { before, after: await numbers(page) };
  },

  // A server that has no room for the first description.
  async busy(browser) {
    const page = await opened(browser);
    let first = true;
    let said = null;
    await page.route(`**/ui/api/models/${task.model}`, (route) => {
      const refused = { status: 503, contentType: "application/json", body: '{"error": "busy"}' };
      return first ? ((first = false), route.fulfill(refused)) : route.continue();
    });
    // Before the first poll, which asks again.
    await page.route("**/overview", async (route) => {
      await page.locator("main .notice").waitFor();
      said ??= await page.locator("main .notice").innerText();
      await page.unroute("**/overview");
      await route.continue();
    });
    await go(page, `/models/${task.model}`);
    return { said, ...(await numbers(page)) };
  },

  // A server that wants a token.
  async tokens(browser) {
    const page = await opened(browser);
    await page.goto(`${task.address}/`);
    const dialog = page.getByRole("dialog");
    await dialog.waitFor();
    await examine(page, "the dialog for a token");
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Give a token" }).click();
    const give = async (token) => {
      await page.getByLabel("Token", { exact: true }).fill(token);
      await page.getByRole("button", { name: "Use the token" }).click();
    };
    await give("fp_wrong");
    await page.waitForTimeout(500);
    await dialog.waitFor();
    await give(task.token);
    await page.locator(".card").first().waitFor();
    const cards = await page.locator(".card h2").allInnerTexts();
    await page.locator(".card h2 a").first().click();
    await page.locator(".took", { hasText: "answered" }).waitFor();
    const program = await page.locator("pre code").evaluate((code) => code.textContent);
    const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, location.href]);
    // An answer that was on its way when the token was forgotten.
    let late = null;
    await page.goto(`${task.address}/#/`);
    await page.locator(".card").first().waitFor();
    await page.route("**/overview", (route) => (late ? route.continue() : (late = route)));
    while (!late) await page.waitForTimeout(20);
    await page.getByRole("button", { name: "Forget the token" }).click();
    await late.continue();
    await dialog.waitFor();
    return { cards, kept, program, after: await page.locator(".card").count() };
  },

  // The pictures of the documentation.
  async pictures(browser) {
    for (const viewport of [WIDE, NARROW]) {
      for (const colorScheme of task.schemes) {
        const page = await opened(browser, { viewport, colorScheme, deviceScaleFactor: task.scale });
        for (const [name, hash, row] of task.pictures) {
          await go(page, hash);
          if (row) {
            await page.getByText("Paste a row").click();
            await page.getByLabel("Numbers, or lines of CSV").fill(row);
            await page.getByRole("button", { name: "Use the row" }).click();
            await page.getByText("Paste a row").click();
            await page.evaluate(() => scrollTo(0, 0));
          }
          await settled(page);
          await page.waitForTimeout(name === "start" ? task.patience : 1500); // polls, for rates
          const dark = colorScheme === "dark" ? "-dark" : "";
          await page.screenshot({ path: `${task.folder}/${name}-${viewport.width}${dark}.png`, fullPage: task.whole });
        }
        await page.context().close();
      }
    }
    return {};
  },
};

async function main() {
  // Root has no sandbox of Chromium's; it visits nothing but our own server.
  const browser = await chromium.launch({ executablePath: task.chromium, args: ["--no-sandbox"] });
  try {
    const report = await visits[task.what](browser);
    fs.writeFileSync(reportPath, JSON.stringify({ ...report, faults }));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error, faults);
  process.exit(1);
});
