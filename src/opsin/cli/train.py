"""`opsin train SYSTEM`: one run from a recipe, its options, or a run to resume."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from opsin.checkpoint import read_domain
from opsin.cli import HELP, HELP_ALL, asks_for_help
from opsin.cli.options import Flag, SharedOptions, UsageError, parse
from opsin.cli.output import note, note_next, show
from opsin.config import differences, from_dict, load_json, nearest_name, to_dict
from opsin.domain import FEWEST_IMAGES
from opsin.runtime import is_first_process
from opsin.systems import SYSTEMS, System, load
from opsin.training.config import TrainingConfig
from opsin.training.run_directory import RunDirectory

LENGTHS = ("epochs", "max_steps", "max_minutes")
CHANGEABLE_ON_RESUME = {*LENGTHS, "device", "workers", "wandb", "log_every", "checkpoint_minutes"}


@dataclass(frozen=True, kw_only=True)
class _RunOptions(SharedOptions):
    FIRST = ("out", "data", "recipe", "max_minutes", "resume")

    out: Path
    """The run directory to create, or with --resume the one to continue."""
    recipe: str = "default"
    """Start from this recipe's settings; every other option changes one of them."""
    resume: Flag = False
    """Continue the run in --out with its own settings."""


def main(argv: list[str]) -> int:
    """Run `opsin train`; returns the exit code."""
    if not argv:
        raise UsageError(f"say what to train: opsin train {' | '.join(SYSTEMS)}, with --data SRC --out DIR")
    if argv[0] in (*HELP, HELP_ALL):
        print("usage: opsin train SYSTEM --data SRC --out DIR [--recipe NAME] [--max-minutes M] [--resume] …\n")
        first = next(iter(SYSTEMS))
        print(f"systems: {', '.join(SYSTEMS)}; 'opsin train {first} {HELP_ALL}' lists its recipes and options")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in SYSTEMS:
        near = nearest_name(name, SYSTEMS)
        raise UsageError(
            f"unknown system {name!r}; " + (f"did you mean {near!r}?" if near else f"there are {', '.join(SYSTEMS)}")
        )
    system = SYSTEMS[name]
    options = _parse(system, name, rest)
    train: Callable[..., Any] = load(system.train)
    report = train(options.config, options.out, resume=options.resume, progress=options.progress)
    if is_first_process():
        _print_report(report, options, system)
    return 0


def _parse(system: System, name: str, argv: Sequence[str]) -> Any:
    """Options of one system, with the recipe's or the resumed run's settings as defaults."""
    recipes = load(system.recipes)
    config_class = load(system.config)
    first = _first_pass(argv)
    if first.recipe not in recipes:
        near = nearest_name(first.recipe, recipes)
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(recipes)}"
        raise UsageError(f"unknown recipe {first.recipe!r} for {name}; {hint}")
    stored: dict[str, Any] | None = None
    if first.resume and first.out is not None and (Path(first.out) / "config.json").exists():
        config = from_dict(config_class, load_json(Path(first.out) / "config.json"), where=f"{first.out}/config.json")
        stored = to_dict(config)
    else:
        config = recipes[first.recipe]()
    config = _with_given_length(config, argv)

    options_class = dataclasses.make_dataclass(
        "TrainOptions",
        # The name is a heading in the help.
        [("config", Annotated[config_class, tyro.conf.arg(name=name)], dataclasses.field(default=config))],
        bases=(_RunOptions,),
        frozen=True,
        kw_only=True,
    )
    options: Any = parse(options_class, argv, f"opsin train {name}", _description(name, recipes))
    # Given again with --resume, a pattern is the one that the run has already.
    patterns = tuple(dict.fromkeys(options.config.exclude))
    options = dataclasses.replace(options, config=dataclasses.replace(options.config, exclude=patterns))
    data: str = options.config.data
    if not data or data.endswith(":"):
        needed = f"{data}DIR" if data else "SRC"
        raise UsageError(f"no data is named for the recipe {first.recipe!r}; give --data {needed}")
    if stored is not None:
        _refuse_changes(stored, to_dict(options.config), options.out)
    return options


def _first_pass(argv: Sequence[str]) -> argparse.Namespace:
    """The three options that decide what the defaults of all others are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--out")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_known_args(argv)[0]


def _with_given_length(config: Any, argv: Sequence[str]) -> Any:
    """A length given on the command line replaces the one of the recipe or the resumed run, whichever of the three
    limits that used."""
    if asks_for_help(argv):  # which says what holds without the option
        return config
    flags = {flag.split("=")[0].removeprefix("--").replace("-", "_") for flag in argv if flag.startswith("--")}
    given = [length for length in LENGTHS if length in flags]
    if not given:
        return config
    training: TrainingConfig = config.training
    placeholder: dict[str, Any] = {given[0]: 1} | {length: None for length in LENGTHS if length != given[0]}
    return dataclasses.replace(config, training=dataclasses.replace(training, **placeholder))


def _refuse_changes(stored: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    changed = [name for name in differences(stored, wanted) if name.split(".")[-1] not in CHANGEABLE_ON_RESUME]
    if changed:
        raise UsageError(
            f"the run in {out} was started with another {changed[0]}; a resumed run keeps its settings. "
            "Leave the option out, or start a new run with another --out"
        )


def _description(name: str, recipes: dict[str, Callable[[], Any]]) -> str:
    lines = [f"Train a model ({name}). Recipes:"]
    for recipe, function in recipes.items():
        summary = (function.__doc__ or "").strip().split("\n")[0]
        lines.append(f"  {recipe}: {summary}")
    return "\n".join(lines)


def _print_report(report: Any, options: Any, system: System) -> None:
    from opsin.training.loggers import tensorboard_command

    next_command = system.next_command
    if not report.splits.takes_images:
        next_command = "opsin evaluate {run}"
    elif not report.splits.is_labelled:
        next_command = system.next_unlabelled
    show(report, options.json)
    if options.json:
        note_next(None, report.baselines, quiet=options.quiet)
        return
    if report.splits.takes_images and read_domain(report.model) is None:
        few = f"fewer than {FEWEST_IMAGES} training images: the model will not say which images are unlike them"
        note(few, quiet=options.quiet)
    names = {"run": shlex.quote(str(options.out)), "data": shlex.quote(options.config.data)}
    if report.steps:  # a model that is fitted at once has no curves
        note(f"curves: opsin report {names['run']}", quiet=options.quiet)
        note(f"        {tensorboard_command(RunDirectory(options.out))}", quiet=options.quiet)
    note_next(next_command.format(**names), report.baselines, quiet=options.quiet)
