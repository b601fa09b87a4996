"""The conformance checks of the clients, from stock Python stubs. The same checks, by the same names, run in every language."""

import io
import os
import sys
import time
import uuid

import grpc
from dropboxconnector.v1 import connector_pb2_grpc, events_pb2 as events, items_pb2, transfer_pb2 as transfer
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from example import ContentHash, download

MIB = 1024 * 1024
PARAMETER = os.environ["CONNECTOR_PARAMETER"]
FOLDER = f"/conformance-python-{uuid.uuid4()}"


def expect(condition, text):
    if not condition:
        raise AssertionError(text)


def content_hash(data):
    hasher = ContentHash()
    hasher.update(data)
    return hasher.hexdigest()


def frames(path, chunks, finish=None):
    yield transfer.UploadFileRequest(application_parameter_id=PARAMETER, spec=transfer.UploadSpec(path=path))
    for chunk in chunks:
        yield transfer.UploadFileRequest(chunk=transfer.UploadChunk(data=chunk) if isinstance(chunk, bytes) else chunk)
    yield transfer.UploadFileRequest(finish=finish or transfer.UploadFinish())


def cut(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


def failure(call):
    """The status a call fails with, and its details by name."""
    try:
        call()
    except grpc.RpcError as error:
        details = {}
        status = rpc_status.from_call(error)
        expect(status is not None, f"no status details: {error}")
        for detail in status.details:
            kind = getattr(error_details_pb2, detail.type_url.rsplit(".", 1)[1])()
            expect(detail.Unpack(kind), f"cannot unpack {detail.type_url}")
            details[type(kind).__name__] = kind
        return error.code(), details
    raise AssertionError("the call succeeded")


def upload_in_chunks_of_1_mib_then_download_gives_the_same_bytes_and_hash(stub):
    data = os.urandom(9 * MIB + 123)
    finish = transfer.UploadFinish(content_hash=content_hash(data), total_size=len(data))
    answer = stub.UploadFile(frames(f"{FOLDER}/up.bin", cut(data, MIB), finish))
    expect(answer.state == transfer.UPLOAD_STATE_COMMITTED, f"state {answer.state}")
    expect(answer.verified and answer.content_hash == content_hash(data), "the server has another hash")
    expect(answer.item.file.size == len(data), "another size")
    sink = io.BytesIO()
    expect(download(stub, PARAMETER, f"{FOLDER}/up.bin", sink) == content_hash(data), "another hash came back")
    expect(sink.getvalue() == data, "other bytes came back")


def a_chunk_of_exactly_4_mib_works(stub):
    data = os.urandom(4 * MIB)
    answer = stub.UploadFile(frames(f"{FOLDER}/four.bin", [data]))
    expect(answer.content_hash == content_hash(data) and answer.verified, "the hash differs")


def a_chunk_of_5_mib_is_refused_with_the_limit(stub):
    code, details = failure(lambda: stub.UploadFile(frames(f"{FOLDER}/five.bin", [bytes(5 * MIB)])))
    expect(code == grpc.StatusCode.INVALID_ARGUMENT, f"code {code}")
    info = details["ErrorInfo"]
    expect(info.reason == "CHUNK_TOO_LARGE", info.reason)
    expect(info.metadata["maxChunkBytes"] == str(4 * MIB), str(info.metadata))


def an_error_carries_its_details(stub):
    request = items_pb2.GetItemRequest(application_parameter_id=PARAMETER, path=f"{FOLDER}/missing")
    code, details = failure(lambda: stub.GetItem(request))
    expect(code == grpc.StatusCode.NOT_FOUND, f"code {code}")
    expect(details["ErrorInfo"].reason == "PATH_NOT_FOUND", details["ErrorInfo"].reason)
    expect(details["ErrorInfo"].domain == "dropboxconnector", details["ErrorInfo"].domain)
    expect(details["RequestInfo"].request_id, "no request id")
    expect(details["ResourceInfo"].resource_name, "no resource name")
    expect("RetryInfo" not in details, "a missing path is no reason to try again")


def an_error_in_mid_upload_reaches_the_caller(stub):
    damaged = transfer.UploadChunk(data=b"x" * MIB, crc32c=0xDEADBEEF)
    chunks = [bytes(MIB), damaged] + [bytes(MIB)] * 64
    code, details = failure(lambda: stub.UploadFile(frames(f"{FOLDER}/damaged.bin", chunks)))
    expect(code == grpc.StatusCode.DATA_LOSS, f"code {code}")
    expect(details["ErrorInfo"].reason == "CHUNK_CRC_MISMATCH", details["ErrorInfo"].reason)


def a_download_needs_no_larger_receive_limit(stub):
    data = os.urandom(6 * MIB)
    stub.UploadFile(frames(f"{FOLDER}/large.bin", cut(data, MIB)))
    request = transfer.DownloadFileRequest(
        application_parameter_id=PARAMETER, path=f"{FOLDER}/large.bin", chunk_size=2 * MIB
    )
    messages = list(stub.DownloadFile(request))
    expect(messages[0].HasField("header"), "the header is not first")
    expect(messages[0].header.total_size == len(data), "the header tells another size")
    expect(messages[-1].HasField("trailer"), "the trailer is not last")
    expect(messages[-1].trailer.content_hash == content_hash(data), "the trailer tells another hash")
    expect(b"".join(message.chunk.data for message in messages[1:-1]) == data, "other bytes came back")


def an_upload_without_finish_leaves_nothing(stub):
    spec = transfer.UploadSpec(path=f"{FOLDER}/open.bin")
    first = transfer.UploadFileRequest(application_parameter_id=PARAMETER, spec=spec)
    answer = stub.UploadFile(iter([first, transfer.UploadFileRequest(chunk=transfer.UploadChunk(data=b"abc"))]))
    expect(answer.state == transfer.UPLOAD_STATE_OPEN, f"state {answer.state}")
    request = items_pb2.GetItemRequest(application_parameter_id=PARAMETER, path=f"{FOLDER}/open.bin")
    code, _ = failure(lambda: stub.GetItem(request))
    expect(code == grpc.StatusCode.NOT_FOUND, f"code {code}")


def a_watch_sees_what_happens_and_misses_nothing_while_the_connector_is_killed(stub):
    watched = f"{FOLDER}/watched"

    def put(name):
        stub.UploadFile(frames(f"{watched}/{name}", [name.encode()]))

    def watch(**start):
        request = events.WatchEventsRequest(application_parameter_id=PARAMETER, path=watched, **start)
        return stub.WatchEvents(request, timeout=120)

    def change(call):
        for message in call:
            if message.HasField("change"):
                return message
        raise AssertionError("the watch ended")

    def told(message):
        kind = events.EventType.Name(message.change.change_type).removeprefix("EVENT_TYPE_")
        return f"{kind} {message.change.item.path_display.removeprefix(watched)}"

    put("first")
    call = watch()
    first = next(call)
    expect(first.HasField("ready") and first.resume_token, "a watch does not begin with ready and a token")
    # Types are certain once the connector has read the folder.
    for number in range(1000):
        put(f"probe-{number}")
        if change(call).change.basis == events.EVENT_BASIS_INDEX:
            break
    put("a")
    expect(told(change(call)) == "CREATED /a", "no creation")
    move = items_pb2.MoveItemRequest(
        application_parameter_id=PARAMETER, from_path=f"{watched}/a", to_path=f"{watched}/b"
    )
    stub.MoveItem(move)
    moved = change(call)
    expect(told(moved) == "MOVED /b" and moved.change.previous_path == f"{watched}/a", f"no move: {moved}")
    stub.DeleteItem(items_pb2.DeleteItemRequest(application_parameter_id=PARAMETER, path=f"{watched}/b"))
    deleted = change(call)
    expect(told(deleted) == "DELETED /b", f"no deletion: {deleted}")
    token = deleted.resume_token
    restart = os.environ["CONNECTOR_RESTART"]
    open(restart, "x").close()
    try:
        for message in call:
            token = message.resume_token
        raise AssertionError("a killed connector ends no stream well")
    except grpc.RpcError:
        pass
    while os.path.exists(restart):
        time.sleep(0.05)
    # From here on the channel is connected again.
    stub.GetServerInfo(items_pb2.GetServerInfoRequest(), wait_for_ready=True, timeout=30)
    for name in ["c", "d", "e"]:
        put(name)
    call = watch(resume_token=token)
    again = [told(change(call)) for _ in range(3)]
    call.cancel()
    expect(again == ["CREATED /c", "CREATED /d", "CREATED /e"], f"told {again}")


CHECKS = [
    upload_in_chunks_of_1_mib_then_download_gives_the_same_bytes_and_hash,
    a_chunk_of_exactly_4_mib_works,
    a_chunk_of_5_mib_is_refused_with_the_limit,
    an_error_carries_its_details,
    an_error_in_mid_upload_reaches_the_caller,
    a_download_needs_no_larger_receive_limit,
    an_upload_without_finish_leaves_nothing,
    a_watch_sees_what_happens_and_misses_nothing_while_the_connector_is_killed,
]

# They ask whoever runs them to kill the connector: CONNECTOR_RESTART names the file by which they do.
NEEDS_RESTART = {a_watch_sees_what_happens_and_misses_nothing_while_the_connector_is_killed}


def main():
    failed = 0
    with grpc.insecure_channel(os.environ["CONNECTOR_ADDRESS"]) as channel:
        stub = connector_pb2_grpc.DropboxConnectorStub(channel)
        for check in CHECKS:
            if check in NEEDS_RESTART and "CONNECTOR_RESTART" not in os.environ:
                print(f"skipped python {check.__name__}: nobody restarts the connector here", flush=True)
                continue
            try:
                check(stub)
                print(f"ok python {check.__name__}", flush=True)
            except Exception as error:  # every check runs, whatever the one before did
                failed += 1
                print(f"not ok python {check.__name__}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
