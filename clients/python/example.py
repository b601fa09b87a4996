"""Sends a file up and down through the connector and compares the hashes: example.py ADDRESS PARAMETER FILE."""

import hashlib
import os
import sys

import grpc
from dropboxconnector.v1 import connector_pb2_grpc, transfer_pb2 as transfer

CHUNK = 1024 * 1024
BLOCK = 4 * 1024 * 1024


class ContentHash:
    """Dropbox's content hash: SHA-256 over the SHA-256 of every block of 4 MiB."""

    def __init__(self):
        self.blocks, self.block, self.room = hashlib.sha256(), hashlib.sha256(), BLOCK

    def update(self, data):
        while data:
            piece, data = data[: self.room], data[self.room :]
            self.block.update(piece)
            self.room -= len(piece)
            if self.room == 0:
                self.blocks.update(self.block.digest())
                self.block, self.room = hashlib.sha256(), BLOCK

    def hexdigest(self):
        whole = self.blocks.copy()
        if self.room < BLOCK:
            whole.update(self.block.digest())
        return whole.hexdigest()


def upload(stub, parameter, path, source):
    """Streams an open file in chunks of 1 MiB; the server checks the hash before it commits anything."""
    hasher = ContentHash()

    def frames():
        size = os.fstat(source.fileno()).st_size
        spec = transfer.UploadSpec(path=path, write_mode=transfer.WRITE_MODE_OVERWRITE, total_size=size)
        yield transfer.UploadFileRequest(application_parameter_id=parameter, spec=spec)
        while data := source.read(CHUNK):
            hasher.update(data)
            yield transfer.UploadFileRequest(chunk=transfer.UploadChunk(data=data))
        yield transfer.UploadFileRequest(finish=transfer.UploadFinish(content_hash=hasher.hexdigest()))

    return stub.UploadFile(frames())


def download(stub, parameter, path, sink):
    """Writes a file into `sink` and answers its hash. Without a trailer the stream was cut, whatever its status."""
    hasher, trailer = ContentHash(), None
    request = transfer.DownloadFileRequest(application_parameter_id=parameter, path=path)
    for message in stub.DownloadFile(request):
        if message.HasField("chunk"):
            hasher.update(message.chunk.data)
            sink.write(message.chunk.data)
        elif message.HasField("trailer"):
            trailer = message.trailer
    if trailer is None or not trailer.verified:
        raise RuntimeError(f"{path}: the download is incomplete or not verified")
    return hasher.hexdigest()


def open_channel(address):
    """Plaintext, or TLS where the environment names files: CONNECTOR_CA (authorities of the server), CONNECTOR_CERT and
    CONNECTOR_KEY (what we show). CONNECTOR_TOKEN is sent as bearer, over TLS only."""
    files = [os.environ.get(name) for name in ("CONNECTOR_CA", "CONNECTOR_KEY", "CONNECTOR_CERT")]
    if not files[0]:
        return grpc.insecure_channel(address)

    def read(name):
        with open(name, "rb") as file:
            return file.read()

    credentials = grpc.ssl_channel_credentials(*(read(name) if name else None for name in files))
    if token := os.environ.get("CONNECTOR_TOKEN"):
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(address, credentials)


def main():
    address, parameter, name = sys.argv[1:4]
    path = "/" + os.path.basename(name)
    with open_channel(address) as channel:
        stub = connector_pb2_grpc.DropboxConnectorStub(channel)
        with open(name, "rb") as source:
            answer = upload(stub, parameter, path, source)
        print(f"up:   {answer.item.path_display} {answer.item.file.size} bytes {answer.content_hash}")
        with open(os.devnull, "wb") as sink:
            found = download(stub, parameter, path, sink)
        print(f"down: {found}")
        sys.exit(found != answer.content_hash)


if __name__ == "__main__":
    main()
