"""Running the toy in processes of its own, forked from a server that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.toy"])
TIMEOUT = 120


class Finished(NamedTuple):
    exit_code: int
    """Negative: the number of the signal that killed the process."""
    stderr: str


def run_toy(directory: Path, **options: object) -> Finished:
    """`toy.main` in one process."""
    return _wait(_start(directory, options, {}, directory.with_suffix(".stderr")))


def run_toy_on(count: int, directory: Path, *, others: Path | None = None, **options: object) -> list[Finished]:
    """`toy.main` in `count` processes, in the environment that torchrun gives each of them. With `others` all but the
    first have that run directory, as on machines that share no disk."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    finder = CONTEXT.Process(target=_send_free_port, args=(sender,))
    finder.start()
    port = receiver.recv()
    finder.join()
    shared = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "GROUP_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
    }
    started = [
        _start(
            others if others and rank else directory,
            options,
            {**shared, "RANK": rank, "LOCAL_RANK": rank},
            directory.with_suffix(f".{rank}"),
        )
        for rank in range(count)
    ]
    return [_wait(process) for process in started]


class _Started(NamedTuple):
    process: multiprocessing.process.BaseProcess
    stderr: Path


def _start(directory: Path, options: dict, environment: dict, stderr: Path) -> _Started:
    variables = {name: str(value) for name, value in environment.items()}
    process = CONTEXT.Process(target=_main, args=(str(directory), options, variables, str(stderr)), daemon=False)
    process.start()
    return _Started(process, stderr)


def _wait(started: _Started) -> Finished:
    started.process.join(TIMEOUT)
    if started.process.is_alive():
        started.process.kill()
        started.process.join()
    assert started.process.exitcode is not None
    return Finished(started.process.exitcode, started.stderr.read_text())


def _main(directory: str, options: dict, environment: dict[str, str], stderr: str) -> None:
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers: no server, no second import
    with open(stderr, "w") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (open until the process ends)
    from tests.training import toy

    try:
        code = toy.main(directory, options)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.exit(code)


def _send_free_port(sender: Connection) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        sender.send(probe.getsockname()[1])
