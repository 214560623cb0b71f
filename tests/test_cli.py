"""The frame of the command line: help, versions, exit codes, and the verbs `doctor` and `profile`."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from opsin import __version__
from opsin.classification.config import ClassificationConfig, ViTConfig
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.cli import main as cli
from opsin.cli import train
from opsin.cli.options import SharedOptions, UsageError, parse, repeat_options, seeded_generator
from opsin.cli.output import print_json, print_json_line, print_table
from opsin.cli.search import SearchOptions
from opsin.config import to_dict
from opsin.counts import human_bytes
from opsin.doctor import EXTRAS, diagnose
from opsin.errors import DataError, TrainingInterrupted
from opsin.images.opening import open_image
from opsin.images.preprocessing import Preprocessing
from opsin.search.index import ImageIndex
from opsin.sources import emoji
from opsin.systems import SYSTEMS
from opsin.training.config import TrainingConfig

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
HEAVY = "{'torch', 'numpy', 'PIL', 'tyro', 'rich', 'lightning_fabric'}"


def opsin(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opsin", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["--version"], ["no-such-verb"]])
def test_frame_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"from opsin.cli.main import main, sys; main({arguments!r}); print({HEAVY} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"


def test_help_lists_every_verb() -> None:
    result = opsin("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    assert all(f"\n  {verb} " in result.stdout for verb in cli.VERBS)
    assert opsin().stdout == result.stdout


def test_version() -> None:
    assert opsin("--version").stdout == f"opsin {__version__}\n"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_module_with_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(import_module(cli.VERBS[verb].module).main)
    assert cli.main([verb, "--help"]) == 0
    assert f"opsin {verb}" in capsys.readouterr().out


def test_unknown_verb_names_the_nearest() -> None:
    result = opsin("clasify", "photo.png")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "unknown verb 'clasify'; did you mean 'classify'?" in result.stderr


def test_unknown_option_is_wrong_usage() -> None:
    result = opsin("doctor", "--jsn")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "--jsn" in result.stderr


@pytest.fixture
def run_verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int]], int]:
    """Run a function as if it were the verb `try`."""

    def run(function: Callable[[list[str]], int]) -> int:
        module = ModuleType("opsin_test_verb")
        module.main = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.VERBS, "try", cli.Verb(module.__name__, "a verb of the tests"))
        return cli.main(["try", "a", "b"])

    return run


def raising(error: BaseException) -> Callable[[list[str]], int]:
    def verb(argv: list[str]) -> int:
        raise error

    return verb


def test_verb_gets_its_arguments_and_gives_its_code(run_verb: Callable[..., int]) -> None:
    assert run_verb(lambda argv: 7 if argv == ["a", "b"] else 0) == 7


def test_a_large_photo_is_opened_in_silence(run_verb: Callable[..., int], tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.new("1", (9500, 9500)).save(path)
    assert run_verb(lambda argv: open_image(path).height) == 9500


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("cat.png is damaged"), 1, "opsin: cat.png is damaged\n"),
        (UsageError("give --epochs or --max-steps"), 2, "opsin: give --epochs or --max-steps\n"),
        (TrainingInterrupted("stopped after step 3", signal.SIGTERM), 143, "opsin: stopped after step 3\n"),
        (TrainingInterrupted("stopped after step 3", signal.SIGINT), 130, "opsin: stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "opsin: interrupted\n"),
        (SystemExit(2), 2, ""),
        (SystemExit(None), 0, ""),
    ],
)
def test_errors_become_one_line_and_a_code(
    run_verb: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    assert run_verb(raising(error)) == code
    assert capsys.readouterr().err == message


def test_unexpected_error_is_one_line_that_says_how_to_see_more(
    run_verb: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_verb(raising(ValueError("first line\nsecond line"))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "unexpected ValueError: first line second line" in line
    assert "OPSIN_DEBUG=1" in line
    monkeypatch.setenv("OPSIN_DEBUG", "1")
    assert run_verb(raising(ValueError("first line"))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_reader_that_goes_away_is_no_crash() -> None:
    command = f"{sys.executable} -m opsin doctor --json --quiet | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 141
    assert result.stderr == ""


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_break_nothing(tmp_path: Path, closed: str) -> None:
    """The next file that was opened got the descriptor of a closed stream, and messages were written into it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8), "red").save(photos / "red.png")
    (photos / "broken.png").write_bytes(b"no image")
    command = f"{sys.executable} -m opsin index {photos} --out {tmp_path / 'index'} --model emoji-clip {closed}"
    result = subprocess.run(["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(ImageIndex.open(tmp_path / "index")) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", ["--help", "doctor --quiet"])
def test_a_result_that_cannot_be_written_is_said(arguments: str) -> None:
    command = f"{sys.executable} -m opsin {arguments} > /dev/full"
    result = subprocess.run(["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("opsin: No space left on device; make room there")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "some/where"), "some/where: Permission denied"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    run_verb: Callable[..., int], capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    assert run_verb(raising(error)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"opsin: {said}")


@dataclass(frozen=True, kw_only=True)
class NestedOptions:
    """Settings of a library config."""

    learning_rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SomeOptions(SharedOptions):
    """Options of a verb of the tests."""

    training: NestedOptions = NestedOptions()
    resume: bool = False


def test_parse_flattens_nested_settings_and_shares_options() -> None:
    options = parse(SomeOptions, ["--learning-rate", "0.5", "--resume", "--json"], "opsin try", "")
    assert options == SomeOptions(training=NestedOptions(learning_rate=0.5), resume=True, json=True)


@pytest.mark.parametrize("default", [False, True])
def test_a_setting_can_be_switched_on_and_off_whatever_its_default(default: bool) -> None:
    """The default comes from a recipe or a resumed run; a command has to mean the same with all of them."""

    @dataclass(frozen=True, kw_only=True)
    class Options(SharedOptions):
        flip: bool = default

    assert parse(Options, ["--flip"], "opsin try", "").flip is True
    assert parse(Options, ["--no-flip"], "opsin try", "").flip is False
    assert parse(Options, [], "opsin try", "").flip is default


@pytest.mark.parametrize("verb", ["train", "data"])
def test_a_verb_without_its_noun_is_wrong_usage(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("opsin: say what to")


def test_a_resumed_run_keeps_its_settings_and_takes_another_length(tmp_path: Path) -> None:
    """An earlier version wrote its config, without a setting that there is now."""
    config = ClassificationConfig(training=TrainingConfig(max_steps=5))
    stored = to_dict(config)
    del stored["training"]["beta2"]
    (tmp_path / "config.json").write_text(json.dumps(stored))

    def resumed(*options: str) -> ClassificationConfig:
        argv = ["--out", str(tmp_path), "--resume", *options]
        parsed: ClassificationConfig = train._parse(SYSTEMS["vit"], "vit", argv).config
        return parsed

    assert resumed() == config
    assert resumed("--max-minutes", "0.2").training == TrainingConfig(max_minutes=0.2)
    with pytest.raises(UsageError, match=r"started with another training\.beta2"):
        resumed("--beta2", "0.9")


def test_offline_option_forbids_the_network_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPSIN_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
    parse(SomeOptions, [], "opsin try", "")
    assert os.environ["OPSIN_OFFLINE"] == os.environ["HF_HUB_OFFLINE"] == "0"
    parse(SomeOptions, ["--offline"], "opsin try", "")
    assert os.environ["OPSIN_OFFLINE"] == os.environ["HF_HUB_OFFLINE"] == "1"


def test_numbers_in_json_have_sensible_digits(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [1 / 3, 123456789.123, 1e-9 / 3, -0.0, 12345678901, True, float("nan"), -float("inf"), np.float64(0.1)]
    document = {"numbers": tuple(numbers), "deep": {"a": [{"b": 2 / 3}]}, "text": "0.123456789"}
    expected = [0.333333, 123457000.0, 3.33333e-10, 0.0, 12345678901, True, None, None, 0.1]
    for show in (print_json, print_json_line):
        show(document)
        printed = json.loads(capsys.readouterr().out)
        assert printed == {"numbers": expected, "deep": {"a": [{"b": 0.666667}]}, "text": "0.123456789"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("I --image a b --image c", "I --image a --image b --image c"),
        ("I red --image a b -k 3", "I red --image a --image b -k 3"),
        ("I --weight 1 -0.5 --json", "I --weight 1 --weight -0.5 --json"),
        ("--json -k 2 --image a I red", "--json -k 2 --image a I red"),
        ("I --image a b -", "I --image a --image b -"),
        ("I --image a -- b", "I --image a -- b"),
    ],
)
def test_an_option_that_can_be_repeated_takes_several_values(given: str, meant: str) -> None:
    assert repeat_options(SearchOptions, given.split()) == meant.split()


def test_table_is_not_folded_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["folder"] * 40)
    print_table(("name", "count", "[/share]"), [(path, 12345, 0.5), ("[b]", None, None)])
    printed = capsys.readouterr().out
    assert "[/share]" in printed
    assert path in printed
    assert "12,345" in printed
    assert "[b]" in printed
    assert "–" in printed


def test_names_in_a_table_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2Jb"
    print_table((name,), [(name,)], title=name)
    assert capsys.readouterr().out.count("a\\x1b[2Jb") == 3


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3 * 10**15, "3000.0 TB")],
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_doctor_as_json_and_as_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("OPSIN_CACHE", str(cache))
    assert cli.main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["opsin"] == __version__
    assert document["packages"]["torch"].startswith("2.")
    assert document["hardware"]["usable_cores"] >= 1
    assert document["cache_directory"] == str(cache)
    assert document["cache"] == []
    assert document["emoji_built"] is False
    assert not cache.exists()
    (cache / "emoji").mkdir(parents=True)
    (cache / "emoji" / "pixels").write_bytes(b"x" * 2500)
    assert cli.main(["doctor", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert any(line.split() == ["cache:", "emoji", "2.5", "kB"] for line in printed.out.splitlines())


def test_doctor_knows_the_extras_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        name: tuple(requirement.split(">=")[0].split("[")[0] for requirement in requirements)
        for name, requirements in project["optional-dependencies"].items()
        if name not in {"dev", "docs", "bench"}
    }
    assert declared == EXTRAS


def test_doctor_says_whether_the_emoji_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emoji.load_emoji()
    assert diagnose().emoji_built
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path))
    assert not diagnose().emoji_built


def test_profile_of_a_saved_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ViTConfig(embed_dim=32, num_layers=2, num_heads=2, dim_feedforward=64, patch_size=8)
    model = build_model(config, image_size=16, num_classes=2)
    content = ClassifierContent(model=config, class_names=("cat", "dog"), preprocessing=Preprocessing(image_size=16))
    Classifier(model, content).save_pretrained(tmp_path / "model")
    assert cli.main(["profile", str(tmp_path / "model"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["input"] == [1, 3, 16, 16]
    assert document["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert [part["name"] for part in document["parts"]] == [name for name, _ in model.named_children()]
    assert cli.main(["profile", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr()
    assert f"{document['macs']:,}" in printed.out
    assert f"{document['flops']:,}" in printed.out
    assert document["flops"] == 2 * document["macs"] > 0
    assert "per image" in printed.err


def test_profile_of_a_missing_model_says_so(tmp_path: Path) -> None:
    result = opsin("profile", str(tmp_path / "nothing"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("opsin: there is no model")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("seed", [10**23, 2**64, -(2**63) - 1])
def test_a_seed_that_does_not_exist_is_wrong_usage(seed: int) -> None:
    with pytest.raises(UsageError, match=rf"--seed must be from -2\^63 to 2\^64 - 1, not {seed}"):
        seeded_generator(seed)
    for possible in (0, -(2**63), 2**64 - 1):
        seeded_generator(possible)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train vit --data x --out y --max-steps 1 --batch-size 0", "batch_size must be at least 1, not 0"),
        ("train vit --data x --out y --max-minutes nan", "max_minutes must be above 0, not nan"),
        ("train clip --data x --out y --image-size 7", "image_size (7) must be divisible by patch_size (8)"),
        ("classify x.png --batch-size 0", "--batch-size must be at least 1, not 0"),
        (f"classify x.png --top-k {10**20}", f"--top-k must be at most 2147483647, not {10**20}"),
        ("caption x.png --length-penalty=-inf", "--length-penalty must be at least -10 and at most 10, not -inf"),
        ("caption x.png --top-p 0", "--top-p must be above 0 and at most 1, not 0.0"),
        ("caption x.png --temperature nan", "--temperature must be above 0, not nan"),
        ("generate red --steps 0", "--steps must be at least 1, not 0"),
        (f"generate red --num-images {10**20}", f"--num-images must be at least 1 and at most 100000, not {10**20}"),
        ("search x red --weight 1 --weight nan", "--weight must be at least -1000000 and at most 1000000, not nan"),
        ("evaluate x --protocol knn --labels-fraction 2", "--labels-fraction must be above 0 and at most 1, not 2.0"),
        ("embed x --out y --rows-per-shard -1", "--rows-per-shard must be at least 1, not -1"),
    ],
)
def test_numbers_beyond_their_bounds_are_wrong_usage(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 2
    assert capsys.readouterr().err == f"opsin: {message}\n"
