// What the official JavaScript SDK takes for one file: an ordered session, appends of 8 MiB, each with its content hash.
// `javascript.cjs JOB`, a JSON object; prints {"cpu": seconds, "wall": seconds}. CPU is from the first request on.
const { createHash } = require("node:crypto");
const { openSync, readSync } = require("node:fs");
const { Dropbox } = require("dropbox");

const BLOCK = 4 << 20;
const sha256 = (bytes) => createHash("sha256").update(bytes).digest();

async function main() {
  const job = JSON.parse(process.argv[2]);
  const box = new Dropbox({ accessToken: job.token });
  const file = openSync(job.file, "r");
  const [begun, before] = [performance.now(), process.cpuUsage()];
  const session_id = (await box.filesUploadSessionStart({ contents: Buffer.alloc(0) })).result.session_id;
  const whole = createHash("sha256");
  let offset = 0;
  for (;;) {
    const part = Buffer.allocUnsafe(job.append);
    const contents = part.subarray(0, readSync(file, part, 0, job.append));
    if (contents.length === 0) break;
    const digests = [];
    for (let at = 0; at < contents.length; at += BLOCK) digests.push(sha256(contents.subarray(at, at + BLOCK)));
    const blocks = Buffer.concat(digests);
    whole.update(blocks);
    const content_hash = sha256(blocks).toString("hex");
    await box.filesUploadSessionAppendV2({ cursor: { session_id, offset }, content_hash, contents });
    offset += contents.length;
  }
  const commit = { path: job.path, mode: "overwrite" };
  const told = await box.filesUploadSessionFinish({ cursor: { session_id, offset }, commit, contents: Buffer.alloc(0) });
  if (told.result.content_hash !== whole.digest("hex")) throw new Error(JSON.stringify(told.result));
  const { user, system } = process.cpuUsage(before);
  console.log(JSON.stringify({ cpu: (user + system) / 1e6, wall: (performance.now() - begun) / 1e3 }));
}

main().catch((error) => {
  console.error(error.error ?? error);
  process.exitCode = 1;
});
