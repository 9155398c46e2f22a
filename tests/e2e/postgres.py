"""A PostgreSQL server from the system: Prefect needs its extension pg_trgm, which packages from an index lack."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

USER = "postgres"
"""Who runs it where we are root, which PostgreSQL refuses to be run by."""


def find_programs():
    """The folder of initdb and pg_ctl where the extension is there too; None where there is none."""
    config = shutil.which("pg_config")
    folders = [Path(config).parent] if config else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "pg_config").exists():
            asked = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True, check=True)
            if Path(asked.stdout.strip(), "extension", "pg_trgm.control").exists():
                return folder
    return None


@contextlib.contextmanager
def serving(port):
    """A server on localhost that ends with the block; gives its address, None where none can be started."""
    programs = find_programs()
    root = os.geteuid() == 0
    if programs is None or (root and USER not in {entry.pw_name for entry in pwd.getpwall()}):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="robert-pg-"))
    as_user = {"user": USER} if root else {}
    if root:
        shutil.chown(folder, USER)

    def call(program, *arguments):
        subprocess.run(
            [programs / program, "-D", folder / "data", *arguments],
            **as_user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    try:
        call("initdb", "--username", "prefect", "--auth", "trust", "--encoding", "UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        call("pg_ctl", "start", "--wait", "--log", folder / "log", "--options", options)
        try:
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "stop", "--mode", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
