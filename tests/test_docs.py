"""The documentation builds, and what it names exists."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from opsin.cli.main import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_site_builds_without_warnings_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    fetched = re.compile(r"<(?:script|img|iframe|link[^>]*stylesheet)[^>]*(?:src|href)=\"?(?:https?:)?//")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 5
    assert [page.name for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []


def test_readme_opens_with_the_two_commands_and_fits_a_screen() -> None:
    assert 0 < README.index("make demo") < README.index("make test") < README.index("| system |")
    assert len(README.splitlines()) <= 60


def named_in_code(page: Path, command: str) -> set[str]:
    """The first words after `command` in the code blocks and the inline code of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", text)
    lines = [line for code in (*blocks, *inline) for line in code.splitlines()]
    return {match[1] for line in lines if (match := re.match(rf"(?:.* -m )?{command} ([a-z]+)", line))}


def test_commands_are_found_in_blocks_and_inline(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    block = "```sh\nopsin two\ntorchrun -m opsin three\n```\n"
    page.write_text(f"opsin is, with `opsin one`:\n{block}", encoding="utf-8")
    assert named_in_code(page, "opsin") == {"one", "two", "three"}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_verb_that_a_page_names_exists(page: Path) -> None:
    named = named_in_code(page, "opsin")
    assert named - VERBS.keys() == set()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    named = named_in_code(page, "make")
    assert named - targets == set()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=page_name)
def test_links_between_files_of_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_every_name_of_the_python_reference_exists() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(opsin[\w.]*)` \| (.*) \|$", text, flags=re.MULTILINE)
    assert len(rows) > 5
    for module, description in rows:
        names = re.findall(r"`(\w+)`", description)
        assert [name for name in names if not hasattr(importlib.import_module(module), name)] == [], module


def test_every_module_of_the_python_reference_is_shown_whole() -> None:
    reference = ROOT / "docs" / "reference"
    modules = re.findall(r"^\| `(opsin[\w.]*)` \|", (reference / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    shown = re.findall(r"^::: ([\w.]+)$", (reference / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    packages = {"opsin", "opsin.encoders"}  # whose names stand in modules
    assert set(modules) - set(shown) == packages


def test_examples_of_the_python_reference_run() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "docs/reference/python.md", "exec"), {})


def test_first_cells_of_the_cli_reference_are_the_verbs() -> None:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `opsin ([a-z]+)", text, flags=re.MULTILINE)) == VERBS.keys()
