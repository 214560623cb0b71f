"""Without a network the Hub is not asked for long: one attempt, one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REQUESTS = """
import socket
connections = []
connect = socket.create_connection
socket.create_connection = lambda *arguments, **options: connections.append(arguments) or connect(*arguments, **options)
from opsin.errors import OfflineError
from opsin.hub import hub_file, hub_files, hub_has
for ask in (lambda: hub_file("timm:x", "org/x", ["a", "b"]), lambda: hub_files("hf-hub:org/y", "org/y", ["*"])):
    try:
        ask()
    except OfflineError as error:
        print(error)
assert not hub_has("org/z", "config.json")
print(len(connections))
"""


def ask_hub(cache: Path, **environment: str) -> list[str]:
    """The Hub is at a port of this machine that nobody listens to."""
    variables = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    variables |= {"HF_HOME": str(cache), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    variables |= environment
    result = subprocess.run([sys.executable, "-c", REQUESTS], env=variables, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_one_attempt_for_all_files(tmp_path: Path) -> None:
    first, second, connections = ask_hub(tmp_path)
    assert first.startswith("the weights of timm:x are not in the local cache")
    assert "hf download org/y" in second
    assert connections == "1"


def test_no_attempt_when_offline(tmp_path: Path) -> None:
    assert ask_hub(tmp_path, HF_HUB_OFFLINE="1")[-1] == "0"
