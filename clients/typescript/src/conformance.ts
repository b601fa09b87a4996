// The conformance checks of the clients, from stock Node stubs. The same checks, by the same names, run in every language.
import { randomBytes, randomUUID } from "node:crypto";
import { existsSync, writeFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { type ClientReadableStream, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { DropboxConnectorClient } from "../gen/dropboxconnector/v1/connector.js";
import {
  type ChangeEvent,
  EventBasis,
  EventType,
  WatchEventsRequest,
  type WatchEventsResponse,
} from "../gen/dropboxconnector/v1/events.js";
import {
  DeleteItemRequest,
  GetItemRequest,
  GetServerInfoRequest,
  MoveItemRequest,
} from "../gen/dropboxconnector/v1/items.js";
import {
  DownloadFileRequest,
  type DownloadFileResponse,
  type UploadFileRequest,
  UploadState,
} from "../gen/dropboxconnector/v1/transfer.js";
import { ErrorInfo, RequestInfo, ResourceInfo } from "../gen/google/rpc/error_details.js";
import { Status } from "../gen/google/rpc/status.js";
import { channelCredentials } from "./channel.js";
import { ContentHash, MIB, download, sendFrames, spec, upload } from "./transfer.js";

type FrameOf = NonNullable<UploadFileRequest["frame"]>;

const parameter = process.env.CONNECTOR_PARAMETER ?? "";
const folder = `/conformance-typescript-${randomUUID()}`;
const client = new DropboxConnectorClient(process.env.CONNECTOR_ADDRESS ?? "", channelCredentials());

function expect(condition: unknown, text: string): asserts condition {
  if (!condition) throw new Error(text);
}

function contentHash(data: Uint8Array): string {
  const hasher = new ContentHash();
  hasher.update(data);
  return hasher.hex();
}

function cut(data: Buffer, size: number): Buffer[] {
  const pieces = [];
  for (let at = 0; at < data.length; at += size) pieces.push(data.subarray(at, at + size));
  return pieces;
}

function frames(name: string, chunks: { data: Buffer; crc32c?: number }[], finish = true): FrameOf[] {
  return [
    { $case: "spec", value: spec({ path: `${folder}/${name}` }) },
    ...chunks.map((value): FrameOf => ({ $case: "chunk", value })),
    ...(finish ? [{ $case: "finish", value: { contentHash: "", totalSize: undefined } } as FrameOf] : []),
  ];
}

function getItem(path: string): Promise<unknown> {
  const request = GetItemRequest.fromPartial({ applicationParameterId: parameter, path });
  return new Promise((resolve, reject) =>
    client.getItem(request, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

/** A unary call as a promise. */
function done<A>(call: (back: (error: ServiceError | null, answer: A) => void) => unknown): Promise<A> {
  return new Promise((resolve, reject) => call((error, answer) => (error ? reject(error) : resolve(answer))));
}

/** The messages of a watch, asked for one by one. */
class Watch {
  private readonly stream: ClientReadableStream<WatchEventsResponse>;
  private readonly messages: AsyncIterator<WatchEventsResponse>;
  /** Of the last message. */
  token = "";

  constructor(path: string, start?: WatchEventsRequest["start"]) {
    const request = WatchEventsRequest.fromPartial({ applicationParameterId: parameter, path, start });
    this.stream = client.watchEvents(request);
    this.messages = (this.stream as AsyncIterable<WatchEventsResponse>)[Symbol.asyncIterator]();
  }

  async next(): Promise<WatchEventsResponse | undefined> {
    const next = await this.messages.next();
    if (next.done) return undefined;
    this.token = next.value.resumeToken;
    return next.value;
  }

  async change(): Promise<ChangeEvent> {
    for (let message = await this.next(); message; message = await this.next())
      if (message.payload?.$case === "change") return message.payload.value;
    throw new Error("the watch ended");
  }

  /** Until it breaks. */
  async broken(): Promise<void> {
    const error = await (async () => {
      while (await this.next());
    })().catch((error: ServiceError) => error);
    expect(error, "a killed connector ends no stream well");
  }

  cancel(): void {
    // What is under way then ends with an error that nobody waits for.
    this.stream.on("error", () => {});
    this.stream.cancel();
  }
}

/** The status a call fails with, and its details by type name. */
async function failure(call: Promise<unknown>): Promise<{ code: status; details: Map<string, Uint8Array> }> {
  const error = await call.then(
    () => undefined,
    (error: ServiceError) => error,
  );
  expect(error, "the call succeeded");
  const encoded = error.metadata?.get("grpc-status-details-bin")[0];
  expect(encoded instanceof Buffer, `no status details: ${error}`);
  const details = new Map<string, Uint8Array>();
  for (const detail of Status.decode(encoded).details) details.set(detail.typeUrl.split(".").at(-1) ?? "", detail.value);
  return { code: error.code, details };
}

function info(details: Map<string, Uint8Array>): ErrorInfo {
  const encoded = details.get("ErrorInfo");
  expect(encoded, "no ErrorInfo");
  return ErrorInfo.decode(encoded);
}

const checks = {
  async upload_in_chunks_of_1_mib_then_download_gives_the_same_bytes_and_hash() {
    const data = randomBytes(9 * MIB + 123);
    const wanted = spec({ path: `${folder}/up.bin`, totalSize: BigInt(data.length) });
    const answer = await upload(client, parameter, wanted, cut(data, MIB));
    expect(answer.state === UploadState.UPLOAD_STATE_COMMITTED, `state ${answer.state}`);
    expect(answer.verified && answer.contentHash === contentHash(data), "the server has another hash");
    const pieces: Uint8Array[] = [];
    const found = await download(client, parameter, `${folder}/up.bin`, (piece) => pieces.push(piece));
    expect(found === contentHash(data), "another hash came back");
    expect(Buffer.concat(pieces).equals(data), "other bytes came back");
  },

  async a_chunk_of_exactly_4_mib_works() {
    const data = randomBytes(4 * MIB);
    const answer = await sendFrames(client, parameter, frames("four.bin", [{ data }]));
    expect(answer.verified && answer.contentHash === contentHash(data), "the hash differs");
  },

  async a_chunk_of_5_mib_is_refused_with_the_limit() {
    const call = sendFrames(client, parameter, frames("five.bin", [{ data: Buffer.alloc(5 * MIB) }]));
    const { code, details } = await failure(call);
    expect(code === status.INVALID_ARGUMENT, `code ${code}`);
    expect(info(details).reason === "CHUNK_TOO_LARGE", info(details).reason);
    expect(info(details).metadata.maxChunkBytes === String(4 * MIB), JSON.stringify(info(details).metadata));
  },

  async an_error_carries_its_details() {
    const { code, details } = await failure(getItem(`${folder}/missing`));
    expect(code === status.NOT_FOUND, `code ${code}`);
    expect(info(details).reason === "PATH_NOT_FOUND", info(details).reason);
    expect(info(details).domain === "dropboxconnector", info(details).domain);
    const request = details.get("RequestInfo");
    expect(request && RequestInfo.decode(request).requestId, "no request id");
    const resource = details.get("ResourceInfo");
    expect(resource && ResourceInfo.decode(resource).resourceName, "no resource name");
    expect(!details.has("RetryInfo"), "a missing path is no reason to try again");
  },

  async an_error_in_mid_upload_reaches_the_caller() {
    const damaged = { data: Buffer.alloc(MIB, "x"), crc32c: 0xdeadbeef };
    const rest = Array.from({ length: 64 }, () => ({ data: Buffer.alloc(MIB) }));
    const chunks = [{ data: Buffer.alloc(MIB) }, damaged, ...rest];
    const { code, details } = await failure(sendFrames(client, parameter, frames("damaged.bin", chunks)));
    expect(code === status.DATA_LOSS, `code ${code}`);
    expect(info(details).reason === "CHUNK_CRC_MISMATCH", info(details).reason);
  },

  async a_download_needs_no_larger_receive_limit() {
    const data = randomBytes(6 * MIB);
    await upload(client, parameter, spec({ path: `${folder}/large.bin` }), cut(data, MIB));
    const request = DownloadFileRequest.fromPartial({
      applicationParameterId: parameter,
      source: { $case: "path", value: `${folder}/large.bin` },
      chunkSize: BigInt(2 * MIB),
    });
    const kinds: string[] = [];
    const pieces: Uint8Array[] = [];
    for await (const message of client.downloadFile(request) as AsyncIterable<DownloadFileResponse>) {
      kinds.push(message.payload?.$case ?? "none");
      if (message.payload?.$case === "chunk") pieces.push(message.payload.value.data);
      if (message.payload?.$case === "trailer")
        expect(message.payload.value.contentHash === contentHash(data), "the trailer tells another hash");
    }
    expect(/^header( chunk)+ trailer$/.test(kinds.join(" ")), `frames: ${kinds.join(" ")}`);
    expect(Buffer.concat(pieces).equals(data), "other bytes came back");
  },

  async an_upload_without_finish_leaves_nothing() {
    const answer = await sendFrames(client, parameter, frames("open.bin", [{ data: Buffer.from("abc") }], false));
    expect(answer.state === UploadState.UPLOAD_STATE_OPEN, `state ${answer.state}`);
    const { code } = await failure(getItem(`${folder}/open.bin`));
    expect(code === status.NOT_FOUND, `code ${code}`);
  },

  async a_watch_sees_what_happens_and_misses_nothing_while_the_connector_is_killed() {
    const watched = `${folder}/watched`;
    const put = (name: string) => sendFrames(client, parameter, frames(`watched/${name}`, [{ data: Buffer.from(name) }]));
    const told = (change: ChangeEvent) =>
      `${EventType[change.changeType].replace("EVENT_TYPE_", "")} ${change.item?.pathDisplay.replace(watched, "")}`;
    await put("first");
    const watch = new Watch(watched);
    const first = await watch.next();
    expect(first?.payload?.$case === "ready" && watch.token, "a watch does not begin with ready and a token");
    // Types are certain once the connector has read the folder.
    for (let number = 0; ; number++) {
      await put(`probe-${number}`);
      if ((await watch.change()).basis === EventBasis.EVENT_BASIS_INDEX) break;
    }
    await put("a");
    const created = await watch.change();
    expect(told(created) === "CREATED /a", `no creation: ${told(created)}`);
    const ids = { applicationParameterId: parameter };
    const move = MoveItemRequest.fromPartial({ ...ids, fromPath: `${watched}/a`, toPath: `${watched}/b` });
    await done((back) => client.moveItem(move, back));
    const moved = await watch.change();
    expect(told(moved) === "MOVED /b" && moved.previousPath === `${watched}/a`, `no move: ${told(moved)}`);
    const remove = DeleteItemRequest.fromPartial({ ...ids, path: `${watched}/b` });
    await done((back) => client.deleteItem(remove, back));
    const deleted = await watch.change();
    expect(told(deleted) === "DELETED /b", `no deletion: ${told(deleted)}`);

    const restart = process.env.CONNECTOR_RESTART ?? "";
    writeFileSync(restart, "");
    await watch.broken();
    while (existsSync(restart)) await pause(50);
    // From here on the channel is connected again.
    const patient = new Metadata({ waitForReady: true });
    await done((back) => client.getServerInfo(GetServerInfoRequest.fromPartial({}), patient, back));
    for (const name of ["c", "d", "e"]) await put(name);
    const again = new Watch(watched, { $case: "resumeToken", value: watch.token });
    const names = [told(await again.change()), told(await again.change()), told(await again.change())].join(", ");
    again.cancel();
    expect(names === "CREATED /c, CREATED /d, CREATED /e", `told ${names}`);
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok typescript ${name}`);
  } catch (error) {
    process.exitCode = 1;
    console.log(`not ok typescript ${name}: ${error}`);
  }
}
client.close();
