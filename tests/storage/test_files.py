"""Folders on a disk and on an object store; each test of `address` runs on both."""

import errno
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from robert_pipeline.errors import ConfigError, StoreError
from robert_pipeline.storage.files import TEMPORARY_SUFFIX, Files

ROOT = Path(__file__).parents[2]


def paths(files, folder=""):
    return [entry.path for entry in files.list(folder)]


def test_what_is_written_is_read_listed_and_deleted(address):
    """A store could not be kept there at all."""
    files = Files(address)
    assert files.list() == []
    files.write_bytes("a/b.bin", b"one")
    files.write_bytes("a/c/d.bin", b"three")
    files.write_bytes("a/b.bin", b"two")
    assert files.read_bytes("a/b.bin") == b"two"
    assert [(entry.path, entry.size_bytes) for entry in files.list()] == [("a/b.bin", 3), ("a/c/d.bin", 5)]
    assert paths(files, "a/c") == ["a/c/d.bin"]
    assert paths(files, "nothing") == []
    assert abs(files.entry("a/b.bin").modified_ns / 1e9 - time.time()) < 100
    files.delete("a/b.bin")
    files.delete("a/b.bin")
    assert paths(files) == ["a/c/d.bin"]
    assert not files.exists("a/b.bin")
    assert not files.exists("a/c")


def test_a_large_file_comes_back_whole(address):
    """An upload in parts would lose or swap some of them."""
    content = os.urandom(12_000_000)
    Files(address).write_bytes("large", content)
    assert Files(address).read_bytes("large") == content


def test_a_file_that_is_not_there_is_not_found(address):
    """A missing file would be taken for a store that cannot be reached."""
    files = Files(address)
    for read in (files.read_bytes, files.entry, files.open):
        with pytest.raises(FileNotFoundError):
            read("nothing")


def test_a_block_that_fails_leaves_the_old_file(address):
    """A crash while writing would leave half a file, or none, in place of a whole one."""
    files = Files(address)
    files.write_bytes("f", b"old")
    with pytest.raises(KeyError), files.writing("f") as place:  # noqa: PT012 - what fails is the block
        place.write_bytes(b"half")
        raise KeyError
    assert files.read_bytes("f") == b"old"
    assert [entry.path for entry in files.list_temporary()] == []


def test_a_file_keeps_its_content_when_moved(address):
    """What is set aside would be lost."""
    files = Files(address)
    files.write_bytes("a/f", b"content")
    files.move("a/f", "quarantine/a/f")
    assert paths(files) == ["quarantine/a/f"]
    assert files.read_bytes("quarantine/a/f") == b"content"
    with pytest.raises(FileNotFoundError):
        files.move("a/f", "elsewhere")


def test_readers_see_one_whole_version_while_a_file_is_replaced(address):
    """A reader would meet a mixture of the old and the new file."""
    files = Files(address)
    versions = {bytes([65 + i]) * 200_000 for i in range(6)}
    files.write_bytes("f", min(versions))
    done = threading.Event()

    def write():
        for content in sorted(versions):
            files.write_bytes("f", content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert files.read_bytes("f") in versions
    writer.join()


def test_a_killed_writer_leaves_a_temporary_file_that_only_gc_sees(tmp_path):
    """kill -9 would leave a file that a reader takes for whole."""
    program = (
        "import sys, time; from robert_pipeline.storage.files import Files\n"
        "with Files(sys.argv[1]).writing('a/f') as place:\n"
        "    place.write_bytes(b'half'); print('writing', flush=True); time.sleep(100)"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    files = Files(str(tmp_path))
    assert files.list() == []
    (left,) = files.list_temporary()
    assert left.path.startswith("a/f.")
    assert left.path.endswith(TEMPORARY_SUFFIX)


def test_a_full_disk_is_one_clear_error(address, monkeypatch):
    """The user would see a traceback, and not know that the old file is still there."""
    files = Files(address)
    files.write_bytes("f", b"old")

    def full(_self, _content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"cannot write .*f: No space left on device\. Free space"):
        files.write_bytes("f", b"new")
    monkeypatch.undo()
    assert files.read_bytes("f") == b"old"


def test_a_folder_travels_as_its_address(address):
    """A worker on another machine could not open the store."""
    files = pickle.loads(pickle.dumps(Files(address)))  # noqa: S301 - dumped here
    files.write_bytes("f", b"x")
    assert Files(address).exists("f")


def test_what_is_shown_is_an_address_without_options(address):
    """Messages would name files that nobody finds."""
    shown = Files(address).describe("a/f")
    assert shown == f"{address.partition('?')[0]}/a/f"
    assert Files(address).describe() == address.partition("?")[0]


def test_a_password_in_an_address_is_refused_and_not_shown():
    """A secret would end up in settings files, logs and messages."""
    with pytest.raises(ConfigError, match=r"s3://…@bucket holds a password") as caught:
        Files("s3://key:secret@bucket/store").list()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["nope://bucket/store", "s3://bucket/store?unknown=1"])
def test_an_address_that_is_none_is_refused(uri):
    """A misspelt address would show a traceback of the library below."""
    with pytest.raises(ConfigError, match="is not an address"):
        Files(uri).list()


def test_an_object_store_that_cannot_be_reached_is_one_clear_error(s3_server):
    """A wrong bucket, or no network, would show a traceback."""
    for endpoint, use, problem in (
        (s3_server, lambda files: files.write_bytes("f", b"x"), "cannot write s3://no-such-bucket/store/f"),
        ("127.0.0.1:1", lambda files: files.list("a"), "cannot reach s3://no-such-bucket/store/a"),
    ):
        with pytest.raises(StoreError, match=problem) as caught:
            use(Files(f"s3://no-such-bucket/store?endpoint_override={endpoint}&scheme=http"))
        assert "\n" not in str(caught.value)


def test_a_bucket_that_cannot_be_asked_is_one_clear_error(monkeypatch):
    """A wrong name, or a network that is away for a minute, would be a traceback."""

    def from_uri(_uri):
        raise OSError("When resolving region for bucket 'nothing': AWS Error NETWORK_CONNECTION")

    unreachable = SimpleNamespace(FileSystem=SimpleNamespace(from_uri=from_uri))
    monkeypatch.setattr("robert_pipeline.storage.files.pafs", unreachable)
    with pytest.raises(StoreError, match="cannot reach s3://nothing: When resolving region") as failed:
        Files("s3://nothing").exists("a")
    assert failed.value.transient
    assert pickle.loads(pickle.dumps(failed.value)).transient  # noqa: S301 - our own


def test_a_file_that_cannot_be_opened_cannot_be_reached(tmp_path):
    """A process with too many open files would call every shard damaged, and have it set aside."""
    files = Files(str(tmp_path))
    files.write_bytes("f", b"content")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    caught = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        for read in (files.open, files.read_bytes, lambda path: files.read_end(path, 3)):
            try:
                read("f")
            except StoreError as error:
                caught.append(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert [error.transient for error in caught] == [True] * 3
    assert all("cannot reach" in str(error) and "Too many open files" in str(error) for error in caught)


def test_an_object_that_is_deleted_while_it_is_open_is_not_found(address):
    """A run that another process has merged would be an outage, and end the unit that has it open."""
    files = Files(address)
    files.write_bytes("f", b"content")
    opened = files.open("f")
    files.delete("f")
    if files.is_local:
        with files.reading("f"):
            assert opened.read_at(7, 0) == b"content"
    else:
        with pytest.raises(FileNotFoundError), files.reading("f"):
            opened.read_at(7, 0)


def test_the_end_of_a_file_is_read(address):
    """The footer of a shard would be another part of it."""
    files = Files(address)
    files.write_bytes("f", b"content")
    assert [files.read_end("f", size) for size in (0, 3, 7, 70)] == [b"", b"ent", b"content", b"content"]
    with pytest.raises(FileNotFoundError):
        files.read_end("nothing", 3)


def test_a_file_that_cannot_be_moved_is_one_clear_error(tmp_path):
    """The report of a verify would end in a traceback, after some files were set aside."""
    files = Files(str(tmp_path))
    files.write_bytes("f", b"content")
    files.write_bytes("quarantine", b"a file where a folder should be")
    with pytest.raises(StoreError, match=r"cannot write .*quarantine/f: File exists\. Free space"):
        files.move("f", "quarantine/f")
    assert files.read_bytes("f") == b"content"
