"""Help on the options of a verb, and what is said of arguments that cannot be read."""

from __future__ import annotations

import re

import pytest

from opsin.cli import main as cli
from opsin.systems import SYSTEMS


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train vit --out RUN --max-minutes five", "--max-minutes takes a number, not 'five'"),
        ("train vit --out RUN --batch-size=1.5", "--batch-size takes a whole number, not '1.5'"),
        ("train vit --out RUN --lerning_rate 1", "unknown option --lerning_rate; did you mean --learning-rate?"),
        ("train clip --out RUN --image.num-head 1", "unknown option --image.num-head; did you mean --image.num-heads?"),
        ("train vit --data emoji", "--out must be given"),
        ("search", "INDEX must be given"),
        ("search INDEX --weight 1 heavy", "--weight takes a number, not 'heavy'"),
        ("search INDEX --backend exat", "--backend takes exact or lancedb, not 'exat'; did you mean 'exact'?"),
        ("search INDEX -k", "--k needs a value"),
        ("profile MODEL extra", "unexpected argument 'extra'"),
        ("index PHOTOS photos.index", "unexpected argument 'photos.index'; --out must be given"),
        ("index PHOTOS --uot photos.index", "unknown option --uot; did you mean --out?"),
        ("doctor --zzz", "unknown option --zzz"),
    ],
)
def test_wrong_usage_is_one_sentence(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command.split()) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    verb = " ".join(command.split()[: 2 if command.startswith("train") else 1])
    assert printed.out == ""
    assert line.startswith(f"opsin: {said}{' ' if said.endswith('?') else '; '}'opsin {verb} --help-all'")


COMMANDS = [*([verb] for verb in cli.VERBS if verb not in ("train", "data")), ["data", "check"]]
COMMANDS += [["train", system] for system in SYSTEMS]


def flags_in(text: str) -> list[str]:
    lines = [line.split("  ")[1] for line in text.splitlines() if line.startswith("  -")]
    return [flag for line in lines for part in line.split(", ") if (flag := part.split(" ")[0]).startswith("-")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_is_short_and_leads_to_all_options(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--help"]) == 0
    short = capsys.readouterr().out
    assert cli.main([*command, "--help-all"]) == 0
    full = capsys.readouterr().out
    assert all(len(line) <= 80 for line in (*short.splitlines(), *full.splitlines()))
    assert len(short.splitlines()) <= 55
    assert set(flags_in(short)) <= set(flags_in(full))
    assert sum(line.startswith("  -") for line in short.splitlines()) <= 5
    assert {"--json", "--quiet", "--offline"} <= set(flags_in(full))
    hidden = len(re.findall(r"^  -", full, re.MULTILINE)) - len(re.findall(r"^  -", short, re.MULTILINE))
    assert (re.search(rf"^{hidden} more options?: opsin {' '.join(command)} --help-all$", short, re.M) is not None) == (
        hidden > 0
    )


@pytest.mark.parametrize("command", [["train", "clip"], ["search"]], ids=" ".join)
def test_help_spells_options_as_they_are_read(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*command, "--help-all"])
    flags = flags_in(capsys.readouterr().out)
    unusual = [flag for flag in flags if "." in flag or flag.startswith("--no-") or not flag.startswith("--")]
    assert unusual
    for flag in unusual:
        assert cli.main([*command, flag, "--zzz"]) == 2
        assert f"unknown option {flag};" not in capsys.readouterr().err


def test_help_shows_defaults_that_hold(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "vit", "--max-minutes", "3", "--help"])
    assert "(default: 5)" in " ".join(capsys.readouterr().out.split())
