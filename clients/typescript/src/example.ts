// Sends a file up and down through the connector and compares the hashes: example ADDRESS PARAMETER FILE.
import { createReadStream } from "node:fs";
import { basename } from "node:path";
import { DropboxConnectorClient } from "../gen/dropboxconnector/v1/connector.js";
import { WriteMode } from "../gen/dropboxconnector/v1/transfer.js";
import { channelCredentials } from "./channel.js";
import { MIB, download, spec, upload } from "./transfer.js";

const [address, parameter, name] = process.argv.slice(2);
if (!address || !parameter || !name) throw new Error("usage: example ADDRESS PARAMETER FILE");
const client = new DropboxConnectorClient(address, channelCredentials());
const path = "/" + basename(name);
const answer = await upload(
  client,
  parameter,
  spec({ path, writeMode: WriteMode.WRITE_MODE_OVERWRITE }),
  createReadStream(name, { highWaterMark: MIB }) as AsyncIterable<Uint8Array>,
);
console.log(`up:   ${answer.item?.pathDisplay} ${answer.contentHash}`);
const found = await download(client, parameter, path, () => {});
console.log(`down: ${found}`);
client.close();
process.exitCode = found === answer.contentHash ? 0 : 1;
