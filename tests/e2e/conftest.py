"""Running the `opsin` command as a person would: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Opsin = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def opsin(tmp_path: Path) -> Opsin:
    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "opsin", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, **environment},
        )

    return run


def assert_one_clear_line(result: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    """The command failed with this code, said why in one last line, and showed no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("opsin: ")]
    assert result.returncode == code, result.stderr
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "bug in opsin" not in result.stderr
    for word in words:
        assert word in lines[0], lines[0]
