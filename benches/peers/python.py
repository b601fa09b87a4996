"""What the official Python SDK takes: `python.py JOB`, a JSON object; prints {"cpu": seconds, "wall": seconds}.

upload    one file, an ordered session, appends of 8 MiB, each with its content hash
parallel  one file, a concurrent session, so many threads, each append with its content hash
small     every file of a folder by files/upload with its content hash, so many threads
opendal   one file by Apache OpenDAL's Dropbox service, in one write, without a hash
timed     another program, with all its children

CPU is this process's from the first request on; what the interpreter takes to start is not in it.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

BLOCK = 4 << 20


def digests(part):
    return b"".join(hashlib.sha256(part[at : at + BLOCK]).digest() for at in range(0, len(part), BLOCK))


def content_hash(part):
    return hashlib.sha256(digests(part)).hexdigest()


def client(job):
    import dropbox

    # They would win over the authority that is given here.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ.pop(name, None)
    session = dropbox.create_session(max_connections=max(8, job.get("threads", 1)), ca_certs=job["ca"])
    return dropbox.Dropbox(oauth2_access_token=job["token"], session=session, timeout=300)


def upload(job, box):
    from dropbox import files

    with open(job["file"], "rb") as file:
        session, offset, whole = box.files_upload_session_start(b"").session_id, 0, hashlib.sha256()
        while part := file.read(job["append"]):
            blocks = digests(part)
            whole.update(blocks)
            cursor = files.UploadSessionCursor(session, offset)
            box.files_upload_session_append_v2(part, cursor, content_hash=hashlib.sha256(blocks).hexdigest())
            offset += len(part)
    commit = files.CommitInfo(job["path"], mode=files.WriteMode.overwrite)
    told = box.files_upload_session_finish(b"", files.UploadSessionCursor(session, offset), commit)
    assert told.content_hash == whole.hexdigest(), told


def parallel(job, box):
    from dropbox import files

    size, append = os.path.getsize(job["file"]), job["append"]
    kind = files.UploadSessionType.concurrent
    session = box.files_upload_session_start(b"", session_type=kind).session_id
    file = os.open(job["file"], os.O_RDONLY)

    def send(offset):
        part = os.pread(file, append, offset)
        blocks = digests(part)
        box.files_upload_session_append_v2(
            part,
            files.UploadSessionCursor(session, offset),
            close=offset + len(part) == size,
            content_hash=hashlib.sha256(blocks).hexdigest(),
        )
        return blocks

    with ThreadPoolExecutor(job["threads"]) as pool:
        whole = hashlib.sha256(b"".join(pool.map(send, range(0, size, append)))).hexdigest()
    commit = files.CommitInfo(job["path"], mode=files.WriteMode.overwrite)
    told = box.files_upload_session_finish(b"", files.UploadSessionCursor(session, size), commit)
    assert told.content_hash == whole, told


def small(job, box):
    from dropbox import files

    def send(name):
        with open(os.path.join(job["folder"], name), "rb") as file:
            part = file.read()
        told = box.files_upload(
            part, f"{job['path']}/{name}", mode=files.WriteMode.overwrite, content_hash=content_hash(part)
        )
        assert told.size == len(part), told

    with ThreadPoolExecutor(job["threads"]) as pool:
        list(pool.map(send, sorted(os.listdir(job["folder"]))))


def opendal(job):
    import opendal as library

    with open(job["file"], "rb") as file:
        data = file.read()
    box = library.Operator("dropbox", root="/", access_token=job["token"])
    return lambda: box.write(job["path"], data)


def spent(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def main():
    job = json.loads(sys.argv[1])
    who = resource.RUSAGE_SELF
    if job["what"] == "timed":
        who = resource.RUSAGE_CHILDREN
        work = lambda: subprocess.run(job["command"], check=True, stdout=sys.stderr)
    elif job["what"] == "opendal":
        work = opendal(job)
    else:
        box = client(job)
        work = lambda: globals()[job["what"]](job, box)
    cpu, begin = spent(who), time.monotonic()
    work()
    print(json.dumps({"cpu": spent(who) - cpu, "wall": time.monotonic() - begin}))


main()
