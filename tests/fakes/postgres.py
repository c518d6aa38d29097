"""A PostgreSQL server of a test's own, on a Unix socket and a loopback port, that can be stopped and started."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Postgres:
    """`directory` must be short: the path of a Unix socket has at most 107 bytes."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._data = directory / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"postgresql+asyncpg://tester:s3cret@127.0.0.1:{self.port}/postgres"
        self._directory = directory

    def create(self) -> None:
        password = self._directory / "password"
        password.write_text("s3cret")
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._directory.chmod(0o755)
            for path in (self._directory, password):
                shutil.chown(path, "postgres", "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "tester", "-A", "scram-sha-256", f"--pwfile={password}", "-N")

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self._directory} -c fsync=off"
        log = str(self._directory / "log")
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of the server stands still, as on a machine or a disk that no longer answers."""
        main = int((self._data / "postmaster.pid").read_text().split()[0])
        found = subprocess.run(["pgrep", "-P", str(main)], capture_output=True, text=True, check=True)
        processes = [main, *map(int, found.stdout.split())]  # the first first: it starts no others then
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        done = subprocess.run(
            command, cwd=self._directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
