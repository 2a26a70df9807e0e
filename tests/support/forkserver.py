"""A process that has imported PyTorch and e2v, and forks for every command: a tenth of a second instead of two.

The child gets arguments, environment, folder and standard streams of its own, and its workers and the hubs' packages
are forked from it. The server computes nothing itself: PyTorch's threads do not survive a fork. Tests that depend on a
start of Python itself (signals at start, ``--help``, spawned workers, ``kill -9``) use the real command.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import logging
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest.mock import patch

from e2v_cli.errors import EXIT_STOPPED
from support.processes import ROOT, E2v, find_group, wait_until
from support.upstream import upstream_alone

ADDRESS = "FORK_SERVER"
"""The variable with the address of the server that all test processes share."""

CLIENT = """\
#!{python} -ES
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
request = dict(args=sys.argv[1:], cwd=os.getcwd(), environment=dict(os.environ), script="")
socket.send_fds(connection, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
answers = connection.makefile()
answers.readline()
code = int(answers.readline())
sys.exit(code if code >= 0 else 128 - code)
"""
"""A command that a shell can start, which runs e2v in a fork."""


class ForkedCommand:
    """A command that was forked, with what the tests need of ``subprocess.Popen``."""

    def __init__(self, connection: socket.socket, streams: list[IO[bytes]]) -> None:
        self.returncode = -1
        self._connection, self._streams = connection, streams
        self._answers = connection.makefile()
        self.pid = int(self._answers.readline())
        self._has_ended = False

    def poll(self) -> int | None:
        """Return the exit code of a command that has ended, else None."""
        if not self._has_ended and not select.select([self._connection], [], [], 0)[0]:
            return None
        return self._wait()

    def communicate(self, timeout: float = 300.0) -> tuple[str, str]:
        """Wait for the end, and return what was written to standard output and standard error.

        Workers of a command that was killed or stopped have its lock until they are gone, too, as forks.
        """
        if not self._has_ended and not select.select([self._connection], [], [], timeout)[0]:
            os.killpg(self.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired("e2v", timeout)
        if self._wait() < 0 or self.returncode == EXIT_STOPPED:
            wait_until(lambda: not find_group(self.pid))
        written = []
        for stream in self._streams:
            stream.seek(0)
            written.append(stream.read().decode())
            stream.close()
        return written[0], written[1]

    def _wait(self) -> int:
        if not self._has_ended:
            self.returncode = int(self._answers.readline())
            self._has_ended = True
            self._answers.close()
            self._connection.close()
        return self.returncode


@dataclass(frozen=True)
class ForkServer:
    """Requests to the server at an address."""

    address: str

    def run(
        self, args: list[str], cwd: Path, stdin: bytes, environment: dict[str, str], script: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, or a script that calls it, to its end: its exit code, and what it wrote."""
        command = self.start(args, cwd, environment, stdin, script)
        out, err = command.communicate()
        return subprocess.CompletedProcess(args, command.returncode, out, err)

    def start(
        self,
        args: list[str],
        cwd: Path,
        environment: dict[str, str],
        stdin: bytes = b"",
        script: Path | None = None,
    ) -> ForkedCommand:
        """Start a command in a session of its own."""
        streams: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115 — the command's
        streams[0].write(stdin)
        streams[0].seek(0)
        request = {"args": args, "cwd": str(cwd), "environment": environment, "script": str(script or "")}
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        descriptors = [stream.fileno() for stream in streams]
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], descriptors)
        streams.pop(0).close()
        return ForkedCommand(connection, streams)

    def write_command(self, path: Path) -> Path:
        """Write a command for shells, which runs e2v in a fork, and exits as shells do."""
        path.parent.mkdir(exist_ok=True)
        path.write_text(CLIENT.format(python=sys.executable, address=self.address))
        path.chmod(0o755)
        return path


def start_server() -> ForkServer:
    """Start a server, which ends with this process. It takes requests at once, and imports when the first arrives."""
    folder = tempfile.mkdtemp(prefix="e2v-fork-")
    address = str(Path(folder, "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-m", "support.forkserver", str(listener.fileno())],
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
                "OMP_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # large pages: a fork takes half as long
            },
            pass_fds=[listener.fileno()],
        )

    def end() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return ForkServer(address)


@cache
def shared_server() -> ForkServer:
    """Return the server of all test processes, or start one for this process, once."""
    address = os.environ.get(ADDRESS)
    return ForkServer(address) if address else start_server()


def make_runner(server: ForkServer) -> E2v:
    """Return a function that runs a command in a fork, from the root of the repository."""

    def run(
        *args: str | Path, cwd: Path = ROOT, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return server.run(list(map(str, args)), cwd, stdin.encode(), variables)

    return run


def fork_e2v(*args: str | Path, **environment: str) -> ForkedCommand:
    """Fork a command that goes on, with the folder and variables of ``start_e2v``."""
    return shared_server().start(list(map(str, args)), ROOT, {**os.environ, "PYTHONPATH": str(ROOT), **environment})


def serve(listener: socket.socket) -> None:
    """Import what commands need when the first request arrives, then fork for every request."""
    parent = os.getppid()
    while not select.select([listener], [], [], 5.0)[0]:
        if os.getppid() != parent:
            return
    with patch.object(atexit, "register"):  # no child needs PyTorch's, which takes as long as a short command
        _import_commands()
    with upstream_alone():
        _serve(listener, parent)


def _import_commands() -> None:
    """Import the commands, and what takes long."""
    import sklearn.linear_model
    import sklearn.model_selection  # noqa: F401
    import torch  # noqa: F401 — the slow imports

    import e2v_cli.cli.main
    import e2v_cli.commands.check
    import e2v_cli.commands.merge
    import e2v_cli.commands.models
    import e2v_cli.commands.plan
    import e2v_cli.commands.predict
    import e2v_cli.commands.probe_eval
    import e2v_cli.commands.probe_train
    import e2v_cli.commands.report
    import e2v_cli.commands.rows
    import e2v_cli.commands.score
    import e2v_cli.commands.select
    import e2v_cli.commands.similarity
    import e2v_cli.commands.speakers
    import e2v_cli.commands.status
    import e2v_cli.commands.submit
    import e2v_cli.inference.engine
    import e2v_cli.inference.load  # noqa: F401


def _serve(listener: socket.socket, parent: int) -> None:
    """Fork for every request, and answer with the child's pid and, when it has ended, its exit code.

    The server ends with its parent.
    """
    gc.collect()
    gc.freeze()  # a collection of what was imported takes a child a tenth of a second
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # PyTorch's, which no child needs
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    while os.getppid() == parent:
        ready, _, _ = select.select([listener.fileno(), woken], [], [], 5.0)
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            content, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            while not content.endswith(b"\n"):
                content += connection.recv(1 << 20)
            started, starting = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.setsid()
                os.close(starting)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (started, listener.fileno(), woken, waker, connection.fileno()):
                    os.close(descriptor)
                for other in children.values():
                    other.close()
                _be_command(json.loads(content), streams)
            os.close(starting)
            os.read(started, 1)  # it has a session of its own
            os.close(started)
            for stream in streams:
                os.close(stream)
            children[pid] = connection
            connection.sendall(f"{pid}\n".encode())
        with suppress(BlockingIOError):
            os.read(woken, 4096)
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                with children.pop(pid) as connection, suppress(OSError):
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _be_command(request: dict[str, Any], streams: list[int]) -> None:
    """Run the command in the child, and end it as Python would."""

    def run() -> None:
        os.chdir(request["cwd"])
        tempfile.tempdir = None  # so that TMPDIR is read again
        _fork_workers()
        _fork_clients()
        _customize()
        if request["script"]:
            for name in [name for name in sys.modules if name.startswith("e2v_cli.cli")]:
                del sys.modules[name]  # the script may change the tables that options are made of
            runpy.run_path(request["script"], run_name="__main__")
            return
        from e2v_cli.__main__ import main

        main()

    _be_process(["e2v", *request["args"]], request["environment"], streams, run)


def _be_process(argv: list[str], environment: Mapping[str, str], streams: list[int], run: Callable[[], None]) -> None:
    """Run something in a forked child with arguments, environment and streams of its own, and end as Python would."""
    code = 70
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment.items() - os.environ.items())
        for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8", errors="surrogateescape"))  # noqa: SIM115
        sys.argv = argv
        run()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


class ForkedClient:
    """A hub's package in a fork of the command, with what e2v needs of ``subprocess.Popen``.

    PyTorch is imported, which takes most of the start of modelscope; the package is not, so it reads its environment.
    """

    def __init__(self, command: list[str], *, env: dict[str, str], **_: object) -> None:
        self.returncode: int | None = None
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            _be_client(command, env, [os.open(os.devnull, os.O_RDONLY), write, os.dup(2)])
        os.close(write)
        self._output = open(read, "rb")  # noqa: SIM115 — closed with the block

    def communicate(self) -> tuple[bytes, bytes]:
        """Wait for the end, and return what was written to standard output."""
        written = self._output.read()
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        return written, b""

    def kill(self) -> None:
        """Kill the process."""
        os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> ForkedClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.close()
        if self.returncode is None:
            os.waitpid(self.pid, 0)


def _be_client(command: list[str], environment: dict[str, str], streams: list[int]) -> None:
    """Run ``python -c CODE ...`` in the child, with nothing left of the command but its modules."""
    _, _, code, *arguments = command
    os.setsid()
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_DFL)
    atexit._clear()
    logging.getLogger("e2v_cli").handlers.clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        del sys.modules[name]  # it reads its environment when it is imported
    _be_process(["-c", *arguments], environment, streams, lambda: exec(code, {"__name__": "__main__"}))  # noqa: S102


def _fork_workers() -> None:
    """Fork the workers' template instead of spawning it."""
    import multiprocessing

    template: Any = importlib.import_module("e2v_cli.workers.template")
    real = template.run_template

    def run_template(*args: Any) -> None:
        logging.getLogger("e2v_cli").handlers.clear()  # those of the command
        real(*args)

    template.run_template = run_template
    template.resource_tracker = SimpleNamespace(ensure_running=lambda: None)  # only spawned processes need it
    context = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda *_: context  # type: ignore[assignment]


def _fork_clients() -> None:
    """Fork the hubs' packages instead of starting Python for them."""
    hub: Any = importlib.import_module("e2v_cli.models.hub")
    hub.subprocess = SimpleNamespace(Popen=ForkedClient, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)


def _customize() -> None:
    """Run the ``sitecustomize.py`` of PYTHONPATH, as a start of Python would."""
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(":") if folder]
    sys.path[:0] = folders
    for folder in folders:
        path = Path(folder, "sitecustomize.py")
        if path.exists():
            exec(compile(path.read_text(), str(path), "exec"), {"__name__": "sitecustomize"})  # noqa: S102
            return


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
