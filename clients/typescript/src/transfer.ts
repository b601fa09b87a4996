// Sends files up and down through the connector with nothing but the stubs.
import { createHash, type Hash } from "node:crypto";
import type { DropboxConnectorClient } from "../gen/dropboxconnector/v1/connector.js";
import type {
  DownloadFileResponse,
  UploadFileRequest,
  UploadFileResponse,
  UploadSpec,
} from "../gen/dropboxconnector/v1/transfer.js";
import { UploadFileRequest as Frame, UploadSpec as Spec } from "../gen/dropboxconnector/v1/transfer.js";

export const MIB = 1024 * 1024;
const BLOCK = 4 * MIB;

/** Dropbox's content hash: SHA-256 over the SHA-256 of every block of 4 MiB. */
export class ContentHash {
  private readonly blocks: Hash = createHash("sha256");
  private block: Hash = createHash("sha256");
  private filled = 0;

  update(data: Uint8Array): void {
    for (let at = 0; at < data.length; ) {
      const piece = data.subarray(at, at + BLOCK - this.filled);
      this.block.update(piece);
      this.filled += piece.length;
      at += piece.length;
      if (this.filled === BLOCK) this.closeBlock();
    }
  }

  private closeBlock(): void {
    this.blocks.update(this.block.digest());
    this.block = createHash("sha256");
    this.filled = 0;
  }

  /** Ends the hash. */
  hex(): string {
    if (this.filled > 0) this.closeBlock();
    return this.blocks.digest("hex");
  }
}

export function spec(fields: Partial<UploadSpec>): UploadSpec {
  return Spec.fromPartial(fields);
}

/**
 * Sends frames in order, no faster than the connector takes them, and answers what the call-back tells. The connector
 * may answer before everything was sent; then the rest is not asked for.
 */
export function sendFrames(
  client: DropboxConnectorClient,
  parameter: string,
  frames: AsyncIterable<NonNullable<UploadFileRequest["frame"]>> | Iterable<NonNullable<UploadFileRequest["frame"]>>,
): Promise<UploadFileResponse> {
  return new Promise((resolve, reject) => {
    let over = false;
    let tell = () => {};
    const answered = new Promise<void>((ready) => (tell = ready));
    const call = client.uploadFile((error, answer) => {
      over = true;
      tell();
      if (error) reject(error);
      else resolve(answer);
    });
    const drained = () => new Promise<void>((ready) => call.once("drain", ready));
    const send = async () => {
      let first = true;
      for await (const frame of frames) {
        if (over) return;
        const request = Frame.fromPartial({ applicationParameterId: first ? parameter : "", frame });
        first = false;
        // A call that was answered early never drains.
        if (!call.write(request)) await Promise.race([drained(), answered]);
      }
      call.end();
    };
    send().catch(reject);
  });
}

/** Streams a source in the chunks it gives; the server checks the hash before it commits anything. */
export function upload(
  client: DropboxConnectorClient,
  parameter: string,
  wanted: UploadSpec,
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<UploadFileResponse> {
  async function* frames(): AsyncGenerator<NonNullable<UploadFileRequest["frame"]>> {
    const hasher = new ContentHash();
    yield { $case: "spec", value: wanted };
    for await (const data of source) {
      hasher.update(data);
      yield { $case: "chunk", value: { data: Buffer.from(data) } };
    }
    yield { $case: "finish", value: { contentHash: hasher.hex(), totalSize: undefined } };
  }
  return sendFrames(client, parameter, frames());
}

/** Hands each piece of a file to `sink` and answers the hash. Without a trailer the stream was cut, whatever its status. */
export async function download(
  client: DropboxConnectorClient,
  parameter: string,
  path: string,
  sink: (data: Uint8Array) => void,
): Promise<string> {
  const hasher = new ContentHash();
  let verified = false;
  const call = client.downloadFile({
    applicationParameterId: parameter,
    context: undefined,
    source: { $case: "path", value: path },
    rev: "",
    readOffset: 0n,
    readLimit: 0n,
    chunkSize: 0n,
    exportFormat: "",
    parallelRanges: 0,
  });
  for await (const message of call as AsyncIterable<DownloadFileResponse>) {
    if (message.payload?.$case === "chunk") {
      hasher.update(message.payload.value.data);
      sink(message.payload.value.data);
    } else if (message.payload?.$case === "trailer") {
      verified = message.payload.value.verified;
    }
  }
  if (!verified) throw new Error(`${path}: the download is incomplete or not verified`);
  return hasher.hex();
}
