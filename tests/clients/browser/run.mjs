// Bundles the page, serves it from two origins, opens both in headless Chromium and prints what the pages report.
// Usage: node run.mjs CONNECTOR PARAMETER PATH FILE PORT CHROMIUM, where PORT is that of the origin that may call.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const REPORT_MAX_MS = 90_000;
const [connector, parameter, path, file, port, chromium] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const bundled = await build({
  entryPoints: [join(here, "page.ts")],
  bundle: true,
  format: "esm",
  target: "es2022",
  write: false,
});
const script = bundled.outputFiles[0].contents;
const bytes = readFileSync(file);

/** Serves the page on `port` (0: a free one) and resolves with what it reports. */
async function origin(port, expect) {
  let reported;
  const report = new Promise((resolve) => (reported = resolve));
  const server = createServer((request, response) => {
    if (request.method === "POST" && request.url === "/report") {
      let text = "";
      request.on("data", (part) => (text += part)).on("end", () => (response.end(), reported(text)));
    } else if (request.url === "/page.js") {
      response.setHeader("content-type", "text/javascript").end(script);
    } else {
      response.setHeader("content-type", "text/html").end('<!doctype html><title>page</title><script type="module" src="/page.js"></script>');
    }
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  const query = new URLSearchParams({
    connector, parameter, path, expect,
    size: String(bytes.length),
    sha256: createHash("sha256").update(bytes).digest("hex"),
  });
  return { server, report, url: `http://127.0.0.1:${server.address().port}/?${query}` };
}

/** The kernel ends the browser's processes one after the other, and the last may write meanwhile. */
async function removed(profile) {
  for (let attempt = 1; ; attempt++) {
    try {
      return rmSync(profile, { recursive: true, force: true });
    } catch (error) {
      if (attempt === 100) return console.error(`left behind: ${error.message}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

async function visit(port, expect) {
  const page = await origin(port, expect);
  const profile = mkdtempSync(join(tmpdir(), "browser-"));
  // In a container there is neither a sandbox of its own nor much of /dev/shm.
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"];
  const browser = spawn(chromium, [...flags, `--user-data-dir=${profile}`, page.url], { detached: true, stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  browser.stderr.on("data", (part) => (said = (said + part).slice(-4000)));
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, REPORT_MAX_MS, `not ok browser ${expect}: no report within ${REPORT_MAX_MS} ms`)));
  const ended = new Promise((resolve) => browser.on("exit", (code) => resolve(`not ok browser ${expect}: Chromium ended with ${code}`)));
  const text = await Promise.race([page.report, late, ended]);
  clearTimeout(timer);
  console.log(text);
  if (text.includes("not ok")) console.error(said);
  const gone = browser.exitCode === null ? new Promise((resolve) => browser.on("exit", resolve)) : undefined;
  // With all that it had started: they lead no lives of their own.
  try { process.kill(-browser.pid, "SIGKILL"); } catch { /* it has ended by itself */ }
  await gone;
  page.server.closeAllConnections();
  page.server.close();
  await removed(profile);
}

await visit(Number(port), "answered");
await visit(0, "refused");
