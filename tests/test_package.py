"""The public surface of the package, and what an installed copy holds."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import opsin

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light() -> None:
    heavy = "{'torch', 'torchvision', 'numpy', 'PIL', 'rich', 'tyro'}"
    assert run_python(f"import opsin, sys; print(sorted({heavy} & sys.modules.keys()))") == "[]"


@pytest.mark.parametrize("name", opsin.__all__)
def test_every_public_name_resolves_and_is_listed(name: str) -> None:
    assert getattr(opsin, name) is not None
    assert name in dir(opsin)


def test_star_import_brings_the_public_names() -> None:
    assert run_python("from opsin import *; print(Classifier.__name__)") == "Classifier"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        opsin.Clasifier  # noqa: B018


def test_lazy_names_are_all_public() -> None:
    assert set(opsin._HOMES) | {"__version__"} == set(opsin.__all__)


def test_wheel_holds_code_and_data(tmp_path: Path) -> None:
    """Every file below src/, whatever .gitignore and the build configuration leave out by mistake."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("opsin-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for package in ("opsin", "icv83551")
        for path in (ROOT / "src" / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "opsin/py.typed" in sources
    assert sources - packed == set()
    assert wheel.name.startswith(f"opsin-{opsin.__version__}-")


def test_constraints_are_exact_and_cover_the_dependencies() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins["torch"] == "2.14.1"
    assert pins["torchvision"] == "0.29.1"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {name.lower().replace("_", "-") for name in pins}
    extras = project["optional-dependencies"]
    required = [
        *project["dependencies"],
        *extras["course"],
        *extras["dev"],
        *extras["docs"],
        *extras["bench"],
    ]
    names = {requirement.split(">=")[0] for requirement in required if not requirement.startswith("opsin[")}
    assert names - pinned == set()
