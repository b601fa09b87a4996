// What a page does: unary calls and a download by gRPC-Web, each byte compared. It posts one line a check to the server
// it came from, as the other languages print theirs.

import { createClient, ConnectError, Code } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { DropboxConnector } from "./gen/dropboxconnector/v1/connector_pb.js";

const BLOCK_BYTES = 4 * 1024 * 1024;

const asked = new URLSearchParams(location.search);
const word = (name: string) => asked.get(name) ?? "";
const transport = createGrpcWebTransport({ baseUrl: word("connector") });
const client = createClient(DropboxConnector, transport);
const applicationParameterId = word("parameter");

function equal(found: unknown, wanted: unknown, what: string) {
  if (found !== wanted) throw new Error(`${what}: ${String(found)}, not ${String(wanted)}`);
}

async function sha256(bytes: Uint8Array<ArrayBuffer>) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

function hex(bytes: Uint8Array) {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Dropbox's content hash: the hash of the hashes of blocks of 4 MiB. */
async function contentHash(bytes: Uint8Array<ArrayBuffer>) {
  const hashes = [];
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) hashes.push(await sha256(bytes.slice(at, at + BLOCK_BYTES)));
  return hex(await sha256(new Uint8Array(await new Blob(hashes).arrayBuffer())));
}

async function getItem() {
  const { item } = await client.getItem({ applicationParameterId, path: word("path") });
  equal(item?.kind.case, "file", "kind");
  if (item?.kind.case === "file") equal(item.kind.value.size, BigInt(word("size")), "size");
  try {
    await client.getItem({ applicationParameterId, path: "/nothing" });
    throw new Error("a missing item was found");
  } catch (error) {
    const refusal = ConnectError.from(error);
    equal(refusal.code, Code.NotFound, "code");
    equal(refusal.metadata.get("x-request-id") !== null, true, "the exposed request id");
  }
}

async function listFolder() {
  const { items } = await client.listFolder({ applicationParameterId, path: "" });
  equal(items.some((item) => item.pathDisplay === word("path")), true, "the file in its folder");
}

async function downloadFile() {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let told = "";
  for await (const { payload } of client.downloadFile({ applicationParameterId, source: { case: "path", value: word("path") } })) {
    if (payload.case === "chunk") chunks.push(payload.value.data as Uint8Array<ArrayBuffer>);
    if (payload.case === "trailer") told = payload.value.contentHash;
  }
  const bytes = new Uint8Array(await new Blob(chunks).arrayBuffer());
  equal(bytes.length, Number(word("size")), "bytes");
  equal(hex(await sha256(bytes)), word("sha256"), "SHA-256");
  equal(await contentHash(bytes), told, "content hash");
}

/** For a page of an origin that is not on the list: nothing comes through, and a browser shows no reason. */
async function refused() {
  try {
    await client.getItem({ applicationParameterId, path: word("path") });
  } catch (error) {
    equal(ConnectError.from(error).code, Code.Unknown, "code");
    return;
  }
  throw new Error("a page of another origin was answered");
}

const checks: Record<string, () => Promise<void>> =
  word("expect") === "refused" ? { refused } : { get_item: getItem, list_folder: listFolder, download_file: downloadFile };
const lines: string[] = [];
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    lines.push(`ok browser ${name}`);
  } catch (error) {
    lines.push(`not ok browser ${name}: ${String(error)}`);
  }
}
await fetch("/report", { method: "POST", body: lines.join("\n") });
