"""A real file of random bytes up and down through stock Python stubs, hashes compared.

large.py BINARY --mib N [--kill] [--growth-max-mib M] -- FLAGS OF SERVE

Starts `BINARY serve FLAGS` itself, makes an application parameter from APP_KEY, APP_SECRET and REFRESH_TOKEN of the
environment, and sends chunks of 1 MiB. With --kill the server is killed by SIGKILL half way, started again on the same
store, and the upload is resumed from what it says is persisted.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import grpc
from dropboxconnector.v1 import admin_pb2 as admin, admin_pb2_grpc, connector_pb2_grpc, transfer_pb2 as transfer

from example import ContentHash, download, upload

MIB = 1024 * 1024
PARAMETER = "large"
START_SECONDS_MAX = 60


class Server:
    """One `serve` process: its addresses as it prints them, its memory, its end."""

    def __init__(self, command, folder):
        handle, self.out = tempfile.mkstemp(dir=folder, suffix=".out")
        self.process = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT)
        os.close(handle)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.told("data") or not self.told("admin"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise SystemExit(f"the connector did not start:\n{self.text()}")
            time.sleep(0.02)
        self.channel = grpc.insecure_channel(self.told("data"))
        self.stub = connector_pb2_grpc.DropboxConnectorStub(self.channel)

    def text(self):
        with open(self.out, encoding="utf-8", errors="replace") as lines:
            return lines.read()

    def told(self, name):
        found = re.search(rf"(?:^|\s){name}=(\S+)", self.text())
        return found and found.group(1)

    def memory(self, field):
        """VmRSS or VmHWM in MiB; None where there is no /proc."""
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii") as lines:
                return int(re.search(rf"{field}:\s+(\d+) kB", lines.read()).group(1)) / 1024
        except FileNotFoundError:
            return None

    def forget_peak(self):
        """Makes VmHWM begin anew, where the kernel allows it."""
        try:
            with open(f"/proc/{self.process.pid}/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
        except OSError:
            pass

    def end(self, number):
        self.channel.close()
        self.process.send_signal(number)
        self.process.wait()


def random_file(folder, mib):
    """A file of `mib` MiB and 123 bytes, so that the last block is a short one; answers its name and hash."""
    name, hasher = os.path.join(folder, "large.bin"), ContentHash()
    with open(name, "wb") as file:
        for piece in [MIB] * mib + [123]:
            data = os.urandom(piece)
            hasher.update(data)
            file.write(data)
    return name, hasher.hexdigest()


def make_parameter(address):
    with grpc.insecure_channel(address) as channel:
        stub = admin_pb2_grpc.DropboxAdminConnectorStub(channel)
        resource = admin.ApplicationParameter(
            application_parameter_id=PARAMETER, app_key=os.environ["APP_KEY"], app_secret=os.environ["APP_SECRET"]
        )
        request = admin.CreateApplicationParameterRequest(
            application_parameter_id=PARAMETER, application_parameter=resource
        )
        stub.CreateApplicationParameter(request)
        stub.ImportCredentials(
            admin.ImportCredentialsRequest(
                application_parameter_id=PARAMETER, refresh_token=os.environ["REFRESH_TOKEN"]
            )
        )


def frames(source, upload_id, offset, finish, before_chunk=lambda sent: None):
    """A resumed stream: the handle, chunks from `offset`, and `finish`."""
    yield transfer.UploadFileRequest(application_parameter_id=PARAMETER, resume_upload_id=upload_id)
    source.seek(offset)
    while data := source.read(MIB):
        before_chunk(offset)
        yield transfer.UploadFileRequest(chunk=transfer.UploadChunk(write_offset=offset, data=data))
        offset += len(data)
    yield transfer.UploadFileRequest(finish=finish)


def upload_with_a_killed_server(start, server, name, path, content_hash):
    """Answers the server that is alive at the end, and the upload's answer."""
    size = os.path.getsize(name)
    spec = transfer.UploadSpec(path=path, total_size=size)
    request = transfer.StartUploadRequest(application_parameter_id=PARAMETER, spec=spec)
    upload_id = server.stub.StartUpload(request).upload_id
    finish = transfer.UploadFinish(content_hash=content_hash, total_size=size)

    def kill_half_way(sent):
        if sent >= size // 2 and server.process.poll() is None:
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()

    with open(name, "rb") as source:
        try:
            server.stub.UploadFile(frames(source, upload_id, 0, finish, kill_half_way))
            raise SystemExit("the upload ended well although the server was killed")
        except grpc.RpcError as error:
            print(f"killed half way: {error.code().name}", flush=True)
        server.channel.close()
        server = start()
        request = transfer.GetUploadStatusRequest(application_parameter_id=PARAMETER, upload_id=upload_id)
        status = server.stub.GetUploadStatus(request)
        print(f"persisted {status.persisted_offset / MIB:.0f} of {size / MIB:.0f} MiB", flush=True)
        if status.state != transfer.UPLOAD_STATE_OPEN or status.persisted_offset % (4 * MIB):
            raise SystemExit(f"not a state to resume from: {status}")
        if status.persisted_offset == 0:
            raise SystemExit("nothing of half the file was kept")
        return server, server.stub.UploadFile(frames(source, upload_id, status.persisted_offset, finish))


def rate(size, seconds):
    return f"{size / MIB / seconds:.0f} MiB/s"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--mib", type=int, required=True)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--growth-max-mib", type=float)
    split = sys.argv.index("--")
    options, flags = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    server = None
    with tempfile.TemporaryDirectory() as folder:
        command = [options.binary, "serve", *flags]
        name, content_hash = random_file(folder, options.mib)
        size, path = os.path.getsize(name), "/large.bin"
        try:
            server = Server(command, folder)
            make_parameter(server.told("admin"))
            server.forget_peak()
            before, begun = server.memory("VmRSS"), time.monotonic()
            if options.kill:
                server, answer = upload_with_a_killed_server(
                    lambda: Server(command, folder), server, name, path, content_hash
                )
            else:
                with open(name, "rb") as source:
                    answer = upload(server.stub, PARAMETER, path, source)
            print(f"up   {rate(size, time.monotonic() - begun)} {answer.content_hash}", flush=True)
            if answer.state != transfer.UPLOAD_STATE_COMMITTED or not answer.verified:
                raise SystemExit(f"not committed, or not verified: {answer}")
            begun = time.monotonic()
            with open(os.devnull, "wb") as sink:
                found = download(server.stub, PARAMETER, path, sink)
            print(f"down {rate(size, time.monotonic() - begun)} {found}", flush=True)
            if not content_hash == answer.content_hash == found:
                raise SystemExit(f"hashes differ: file {content_hash}, up {answer.content_hash}, down {found}")
            peak = server.memory("VmHWM")
            if not options.kill and before is not None:
                print(f"memory {before:.0f} MiB before, {peak:.0f} MiB at most", flush=True)
                if options.growth_max_mib is not None and peak - before > options.growth_max_mib:
                    raise SystemExit(f"memory grew by {peak - before:.0f} MiB; at most {options.growth_max_mib:.0f} is allowed")
        except BaseException:
            if server is not None:
                print(server.text()[-8000:], file=sys.stderr)
            raise
        finally:
            if server is not None and server.process.poll() is None:
                server.end(signal.SIGKILL)


if __name__ == "__main__":
    main()
