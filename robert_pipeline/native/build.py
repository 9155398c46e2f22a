"""Compile a C++ source of this package into a shared library, once, and keep it in the user's cache.

A source and flags enter; the path of a library, or the reason why there is none, leaves. The name of a library is the
hash of what it was made from, so a newer source never meets an older library.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-w")
TIMEOUT_SECONDS = 300
AVX512_BF16 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma")
AMX_BF16 = ("-mamx-tile", "-mamx-bf16")
"""Instruction sets that the sources of this package are written in, as compiler flags."""

SWITCH = "ROBERT_NATIVE"
"""Environment variable; '0' turns compiled code off."""
CACHE = "ROBERT_CACHE"
"""Environment variable; the folder compiled code is kept in."""


class NativeUnavailable(Exception):  # noqa: N818 - a finding, which callers answer with another way
    """There is no compiled code to be had here; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A C++ file of this package and the instruction sets it is written in, as compiler flags."""

    file: str
    instructions: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the file is."""
        return Path(__file__).with_name(self.file)

    def text(self) -> str:
        """What the compiler reads: the file, and the headers of this package, whether it includes them or not."""
        files = [self.path, *sorted(self.path.parent.glob("*.h"))]
        return "\n".join(file.read_text(encoding="utf-8") for file in files)


def build(source: Source) -> Path:
    """The library of `source`, compiled unless it is in the cache. Raises NativeUnavailable."""
    if os.environ.get(SWITCH) == "0":
        raise NativeUnavailable(f"{SWITCH}=0")
    compiler = _compiler()
    flags = [*FLAGS, *source.instructions]
    made_from = "\n".join([compiler, _version(compiler), *flags, source.text()])
    name = f"{source.path.stem}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.so"
    library = _cache_folder() / name
    if not library.exists():
        _compile([compiler, *flags, str(source.path)], library)
    return library


def load(source: Source) -> ctypes.CDLL:
    """The same, in this process. Raises NativeUnavailable."""
    try:
        return ctypes.CDLL(str(build(source)))
    except OSError as error:
        raise NativeUnavailable(f"the compiled library cannot be loaded: {error}") from error


def _compiler() -> str:
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else COMPILERS:
        if found := shutil.which(name):
            return found
    raise NativeUnavailable(f"no C++ compiler ({chosen or ', '.join(COMPILERS)})")


def _version(compiler: str) -> str:
    done = subprocess.run(  # noqa: S603 - the compiler that the user's PATH names
        [compiler, "--version"], capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )
    return done.stdout


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(os.environ.get(CACHE) or Path(home) / "robert_pipeline")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NativeUnavailable(
            f"cache folder {folder} cannot be made ({error.strerror}); name another with {CACHE}"
        ) from error
    if folder.stat().st_uid != os.getuid():  # its owner could put other code into this process
        raise NativeUnavailable(f"cache folder {folder} belongs to another user; name another with {CACHE}")
    return folder


def _compile(command: list[str], library: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent) as folder:
            made = Path(folder) / library.name
            done = subprocess.run(  # noqa: S603
                [*command, "-o", str(made)], capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
            )
            if done.returncode:
                first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
                raise NativeUnavailable(f"{command[0]} cannot compile it: {first.strip()}")
            made.replace(library)  # in one step: another process may be loading it
    except OSError as error:
        raise NativeUnavailable(f"cannot compile into {library.parent}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NativeUnavailable(f"{command[0]} did not finish in {TIMEOUT_SECONDS} s") from error
