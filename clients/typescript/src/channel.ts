// How the connector is reached. Plaintext, or TLS where the environment names files: CONNECTOR_CA (authorities of the server),
// CONNECTOR_CERT and CONNECTOR_KEY (what we show). CONNECTOR_TOKEN is sent as bearer, over TLS only.
import { readFileSync } from "node:fs";
import { type ChannelCredentials, Metadata, credentials } from "@grpc/grpc-js";

function read(name: string): Buffer | null {
  const file = process.env[name];
  return file ? readFileSync(file) : null;
}

export function channelCredentials(): ChannelCredentials {
  const authority = read("CONNECTOR_CA");
  if (!authority) return credentials.createInsecure();
  const channel = credentials.createSsl(authority, read("CONNECTOR_KEY"), read("CONNECTOR_CERT"));
  const token = process.env.CONNECTOR_TOKEN;
  if (!token) return channel;
  const bearer = credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${token}`);
    done(null, metadata);
  });
  return credentials.combineChannelCredentials(channel, bearer);
}
