"""Compiling: once a machine, and never a reason to stop."""

import stat
from pathlib import Path

import pytest

from robert_pipeline.native import build as built
from robert_pipeline.native.build import NativeUnavailable, Source, build


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that writes its arguments where the library should be, and notes every call."""
    calls = tmp_path / "calls"
    program = tmp_path / "compiler"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo "fake 1.0"; exit; }\n'
        f'echo call >> {calls}\nfor last; do :; done\necho "$@" > "$last"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(program))
    return calls


SOURCE = Source(file="attention.cpp", instructions=("-mfast",))


def test_a_library_is_compiled_once(cache, compiler):
    """Every start of a worker would wait for the compiler."""
    first, second = build(SOURCE), build(SOURCE)
    assert first == second
    assert first.parent == cache
    assert "-mfast" in first.read_text()
    assert compiler.read_text().count("call") == 1
    assert [path.name for path in cache.iterdir()] == [first.name]


def test_other_flags_are_another_library(cache, compiler):
    """A machine would run code that was compiled for another processor."""
    assert build(SOURCE) != build(Source(file="attention.cpp", instructions=("-mslow",)))


def test_no_compiler_is_said(cache, monkeypatch):
    """A machine without a compiler could embed nothing."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NativeUnavailable, match="no C\\+\\+ compiler"):
        build(SOURCE)


def test_a_failing_compiler_is_said(cache, tmp_path, monkeypatch):
    """A compiler too old for the code would stop the run."""
    program = tmp_path / "broken"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\necho "x.cpp: error: no such thing" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(NativeUnavailable, match="no such thing"):
        build(SOURCE)
    assert list(cache.iterdir()) == []


def test_compiled_code_can_be_turned_off(cache, compiler, monkeypatch):
    """There would be no way around compiled code that misbehaves on some machine."""
    monkeypatch.setenv("ROBERT_NATIVE", "0")
    with pytest.raises(NativeUnavailable, match="ROBERT_NATIVE"):
        build(SOURCE)


def test_a_cache_that_cannot_be_made_is_said(tmp_path, compiler, monkeypatch):
    """A read-only home would stop the run."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROBERT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NativeUnavailable, match="ROBERT_CACHE"):
        build(SOURCE)


def test_another_user_s_cache_is_not_trusted(cache, compiler, monkeypatch):
    """Another user of the machine could put code into the run."""
    cache.mkdir()
    monkeypatch.setattr(built.os, "getuid", lambda: cache.stat().st_uid + 1)
    with pytest.raises(NativeUnavailable, match="another user"):
        build(SOURCE)


def test_sources_are_part_of_the_package():
    """An installed package would have nothing to compile."""
    assert Path(SOURCE.path).is_file()
