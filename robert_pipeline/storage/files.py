"""A folder, on a local disk or an object store, in which a file is either whole or absent.

Takes paths relative to the folder, separated by '/'. Never leaves a half-written file under a name that a reader
uses: locally a file is written beside its place, synced and renamed; an upload to an object store becomes visible when
it is complete.
"""

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from robert_pipeline.errors import ConfigError, StoreError

TEMPORARY_SUFFIX = ".tmp"
_TEMPORARY = re.compile(r"\.\d+-[0-9a-f]+\.tmp$")
COPY_BYTES = 8 << 20
S3_ATTEMPTS = 6
"""Of one request, 16 s of waiting between them: a store that does not answer is an error within half a minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file under a folder."""

    path: str
    size_bytes: int
    modified_ns: int
    """Nanoseconds since 1970 UTC."""

    @property
    def revision(self) -> str:
        """Changes when the file's content may have."""
        return f"{self.size_bytes}-{self.modified_ns}"


@dataclass(frozen=True)
class Files:
    """A folder given by a local path or a URI that pyarrow understands (file, s3, gs). Pickles as its address."""

    uri: str

    def __reduce__(self) -> tuple[object, ...]:
        return (Files, (self.uri,))

    @cached_property
    def _resolved(self) -> tuple[pafs.FileSystem, str]:
        try:
            if "://" in self.uri:
                with self._reaching(""):  # a bucket is asked where it is
                    filesystem, root = pafs.FileSystem.from_uri(_checked(self.uri))
                filesystem = _giving_up(filesystem)
            else:
                filesystem, root = pafs.LocalFileSystem(), str(Path(self.uri).expanduser().absolute())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ConfigError(f"'{self.uri}' is not an address: {error}", fix="Give a path, s3:// or gs://") from error
        return filesystem, root.rstrip("/") or "/"

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system the folder is on."""
        return self._resolved[0]

    @property
    def root(self) -> str:
        """The folder's path on its file system."""
        return self._resolved[1]

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's disks."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def full_path(self, path: str) -> str:
        """`path` as the file system wants it."""
        return f"{self.root}/{path}" if path else self.root

    def describe(self, path: str = "") -> str:
        """`path` as a person wants to read it."""
        address = self.uri.partition("?")[0] if "://" in self.uri else self.uri
        return f"{address.rstrip('/')}/{path}" if path else address

    def kind(self, path: str = "") -> pafs.FileType:
        """File, Directory or NotFound. Raises StoreError where the place cannot be reached."""
        with self._reaching(path):
            return self.filesystem.get_file_info(self.full_path(path)).type

    def exists(self, path: str) -> bool:
        """Whether a whole file is there."""
        return bool(self.kind(path) == pafs.FileType.File)

    def list_temporary(self) -> list[FileEntry]:
        """What a killed writer has left, and what writers at work are filling; no file of anybody else."""
        return [entry for entry in self._all("") if _TEMPORARY.search(entry.path)]

    def _all(self, folder: str) -> list[FileEntry]:
        selector = pafs.FileSelector(self.full_path(folder), recursive=True, allow_not_found=True)
        with self._reaching(folder):
            infos = self.filesystem.get_file_info(selector)
        entries = [
            FileEntry(path=info.path[len(self.root) :].lstrip("/"), size_bytes=info.size, modified_ns=info.mtime_ns)
            for info in infos
            if info.type == pafs.FileType.File
        ]
        return sorted(entries, key=lambda entry: entry.path)

    def list(self, folder: str = "") -> list[FileEntry]:
        """Every file below `folder`, sorted by path; temporary files are not shown. Empty where there is no folder."""
        return [entry for entry in self._all(folder) if not entry.path.endswith(TEMPORARY_SUFFIX)]

    @contextlib.contextmanager
    def _reaching(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot reach {self.describe(path)}: {_first_line(error)}",
                fix="Check the address, the network and the credentials in the environment",
                transient=True,
            ) from error

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Around what reads a file. Raises FileNotFoundError where it has gone, StoreError where it cannot be read.

        That error is transient: nobody knows what the bytes are, so they are no damage.
        """
        try:
            with self._reaching(path):
                yield
        except StoreError as error:
            # An object store that has deleted what is open here gives another error, whatever its words.
            if error.transient and self.kind(path) == pafs.FileType.NotFound:
                raise FileNotFoundError(self.describe(path)) from error
            raise

    def entry(self, path: str) -> FileEntry:
        """One file's entry. Raises FileNotFoundError."""
        with self._reaching(path):
            info = self.filesystem.get_file_info(self.full_path(path))
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(self.describe(path))
        return FileEntry(path=path, size_bytes=info.size, modified_ns=info.mtime_ns)

    def open(self, path: str) -> pa.NativeFile:
        """Open for random reading, in `reading`. Raises FileNotFoundError, StoreError where it cannot be reached."""
        with self.reading(path):
            return self.filesystem.open_input_file(self.full_path(path))

    def read_bytes(self, path: str) -> bytes:
        """A small file, whole."""
        return bytes(self.read_buffer(path).to_pybytes())

    def read_buffer(self, path: str) -> pa.Buffer:
        """A file, whole, in one request. Raises FileNotFoundError, StoreError where the place cannot be reached."""
        with self.reading(path), self.open(path) as source:
            return source.read_buffer()

    def read_end(self, path: str, size_bytes: int) -> bytes:
        """The last bytes of a file, all of a smaller one. Raises what `read_buffer` raises."""
        with self.reading(path), self.open(path) as source:
            start = max(0, source.size() - size_bytes)
            return bytes(source.read_at(size_bytes, start))

    def write_bytes(self, path: str, content: bytes) -> None:
        """Put a small file in place, whole or not at all."""
        with self.writing(path) as temporary:
            temporary.write_bytes(content)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """Give a local file to fill; put it in place when the block ends well, remove it when it does not.

        Raises StoreError where the disk is full or the place cannot be written.
        """
        place = self.full_path(path)
        if self.is_local:
            temporary = Path(temporary_name(place))
            make_parent = temporary.parent
        else:
            temporary = Path(tempfile.gettempdir()) / f"robert-{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
            make_parent = None
        try:
            if make_parent is not None:
                make_parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if self.is_local:
                _replace_synced(temporary, Path(place))
            else:
                self._upload(temporary, place)
        except OSError as error:
            raise self._cannot_write(path, error) from error
        finally:
            with contextlib.suppress(OSError):  # it must not hide what went wrong above
                temporary.unlink(missing_ok=True)

    def _cannot_write(self, path: str, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write {self.describe(path)}: {error.strerror or _first_line(error)}",
            fix="Free space or fix the permissions and run again; what was there before is unchanged",
        )

    def _upload(self, source: Path, place: str) -> None:
        # In one call: a stream that is closed after half of the content would publish that half.
        with pa.memory_map(str(source)) as content, self.filesystem.open_output_stream(place) as target:
            target.write(content.read_buffer())

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError), self._reaching(path):
            self.filesystem.delete_file(self.full_path(path))

    def move(self, path: str, target: str) -> None:
        """Give a file another name. At no moment is it under neither. Raises FileNotFoundError or StoreError."""
        if self.is_local:
            place = Path(self.full_path(target))
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                Path(self.full_path(path)).replace(place)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise self._cannot_write(target, error) from error
            return
        content = self.read_buffer(path)
        with self.writing(target) as temporary:
            temporary.write_bytes(content)
        self.delete(path)


def temporary_name(path: str) -> str:
    """A name that no reader is shown, and that `list_temporary` finds if it is left behind."""
    return f"{path}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}"


def _checked(uri: str) -> str:
    """The address as pyarrow takes it. Raises ConfigError where it holds a password, without repeating it."""
    scheme, _, rest = uri.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise ConfigError(
            f"the address {scheme}://…@{rest.partition('/')[0].rpartition('@')[2]} holds a password",
            fix="Leave it out; credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
        )
    if scheme == "s3" and "allow_delayed_open" not in uri:
        # A small file is then one request; else every file is an upload in parts, of three requests.
        return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"
    return uri


def _giving_up(filesystem: pafs.FileSystem) -> pafs.FileSystem:
    """The same file system with `S3_ATTEMPTS`: as an address makes it, it asks a silent server for 100 s."""
    if not isinstance(filesystem, pafs.S3FileSystem):
        return filesystem
    _, (options,) = filesystem.__reduce__()  # an address has no word for it
    retries = pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
    return pafs.S3FileSystem(**options, retry_strategy=retries)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def copy_folder(source: Files, target: Files, folder: str) -> None:
    """Put every file below `folder` of `source` under the same path of `target`. Raises StoreError."""
    for entry in source.list(folder):
        with source.open(entry.path) as original, target.writing(entry.path) as place, place.open("wb") as copy:
            shutil.copyfileobj(original, copy, COPY_BYTES)


def _replace_synced(temporary: Path, place: Path) -> None:
    """Rename so that after a power cut the name holds the old content or the new, whole."""
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
