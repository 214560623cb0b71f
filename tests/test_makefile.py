"""What `make` says on a machine where it cannot start, and that continuous integration runs every check."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make_environment(tmp_path: Path, python: str) -> subprocess.CompletedProcess[str]:
    """`make` of the virtual environment alone, with a shell script in the place of Python."""
    script = tmp_path / "python3"
    script.write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
    script.chmod(0o755)
    # These tests may themselves run below make, which hands its options down in the environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "demo", f"PYTHON={script}", f"VENV={tmp_path / 'venv'}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("python", "reason", "remedy"),
    [
        ('[ "$1" = --version ] && echo Python 3.9.1; exit 1', "is Python 3.9.1", "PYTHON=python3.12"),
        ('case "$2" in *sys*) exit 0;; *) exit 1;; esac', "can make no virtual environments", "python3-venv"),
    ],
)
def test_unusable_python_is_one_clear_sentence(tmp_path: Path, python: str, reason: str, remedy: str) -> None:
    result = make_environment(tmp_path, python)
    assert result.returncode == 2
    sentence = result.stderr.splitlines()[0]
    assert reason in sentence
    assert remedy in sentence
    assert not (tmp_path / "venv").exists()


def test_missing_python_is_one_clear_sentence(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "demo", f"PYTHON={tmp_path / 'absent'}", f"VENV={tmp_path / 'venv'}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "opsin needs Python 3.11 or newer" in result.stderr.splitlines()[0]


def test_continuous_integration_runs_every_check_and_the_tests_last() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line.startswith("make ")]
    assert {"lint", "types", "imports", "docs"} <= set(lines[0].split())
    assert "test" in lines[-1].split()
