"""A PostgreSQL server of the tests' own, with nothing in it but one database."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def binaries():
    """The folder of the server's programs; Debian keeps them off the path."""
    found = shutil.which("initdb") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if not found:
        pytest.skip("there is no PostgreSQL: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="pip install -e '.[postgresql]' brings it")
    return Path(found).resolve().parent


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Server:
    """The server; it can be stopped, and started again with all that it had."""

    def __init__(self):
        self.programs = binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql"))
        self.folder.chmod(0o755)
        if os.getuid() == 0:  # it refuses to run as such
            self.someone = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self.folder, "postgres", "postgres")
        else:
            self.someone = {}
        self.port = free_port()
        self.url = self.url_for("litlab")
        self.process = None

    def __enter__(self):
        try:
            how = ("--username=litlab", "--auth=trust", "--encoding=UTF8", "--no-sync")
            self._call("initdb", f"--pgdata={self.folder}/data", *how)
            self.start()
            self._call("createdb", *self._there, "studies")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder)

    def url_for(self, user):
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/studies"

    @property
    def _there(self):
        return "--host=127.0.0.1", f"--port={self.port}", "--username=litlab"

    def _call(self, program, *arguments):
        command = [self.programs / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, **self.someone)
        assert done.returncode == 0, done.stderr

    def start(self):
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        settings += ["fsync=off", "synchronous_commit=off"]  # what is in it need not outlive this machine
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.folder / "data", *(f"--{setting}" for setting in settings)],
                cwd=self.folder,
                stderr=log,
                stdout=log,
                **self.someone,
            )
        until = time.monotonic() + 30
        while subprocess.run([self.programs / "pg_isready", *self._there, "--quiet"]).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, "waited for half a minute"
            time.sleep(0.05)

    def stop(self):
        """End it at once, and with it all connections."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            self.process = None

    def tell(self, sql):
        self._call("psql", *self._there, f"--command={sql}", "studies")
