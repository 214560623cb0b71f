"""The `opsin` command: finds the verb, imports it only then, and turns errors into exit codes.

Exit codes: 0 done, 1 failed for the reason that is printed, 2 wrong usage, 130 and 143 interrupted by SIGINT
and SIGTERM, 141 when the reader of stdout went away.
"""

from __future__ import annotations

import difflib
import errno
import io
import logging
import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import NamedTuple

from opsin import __version__
from opsin.cli import HELP, HELP_ALL, UsageError
from opsin.errors import OpsinError
from opsin.names import printable


class Verb(NamedTuple):
    """The module whose `main(argv) -> int` runs the verb, and what `opsin --help` says about it."""

    module: str
    summary: str


VERBS = {
    "train": Verb("opsin.cli.train", "train a model:  opsin train classifier --data SRC --out DIR"),
    "evaluate": Verb("opsin.cli.evaluate", "score a trained model on a data source"),
    "report": Verb("opsin.cli.report", "curves, samples, confusions and settings of a run in one HTML page"),
    "classify": Verb("opsin.cli.classify", "label images with a trained classifier, or with labels of your own"),
    "caption": Verb("opsin.cli.caption", "describe images in words with a trained captioner"),
    "generate": Verb("opsin.cli.generate", "draw pictures of a prompt with a trained diffusion model"),
    "index": Verb("opsin.cli.index", "make an index of images, or bring it up to date:  opsin index SRC --out INDEX"),
    "search": Verb("opsin.cli.search", "find images of an index by words or by image:  opsin search INDEX QUERY"),
    "duplicates": Verb("opsin.cli.duplicates", "images that are there several times, in groups; deletes nothing"),
    "embed": Verb("opsin.cli.embed", "encode the images of a source into shards of vectors"),
    "profile": Verb("opsin.cli.profile", "parameters and operations of a model, part by part"),
    "export": Verb("opsin.cli.export", "write a model into a directory of its own, at half the size with --half"),
    "data": Verb("opsin.cli.data", "list, prepare and check data sources"),
    "doctor": Verb("opsin.cli.doctor", "hardware, versions, caches, and what is installed"),
    "tour": Verb("opsin.cli.tour", "train small models and write an illustrated report"),
}


def entry_point() -> None:
    """What the installed `opsin` script calls."""
    code = main()
    try:
        sys.stdout.flush()
    except OSError:  # said already
        _abandon_stdout()
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run one command, `argv` being the arguments without the program name; returns the exit code."""
    _reopen_closed_streams()
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in (*HELP, HELP_ALL, "help"):
        return _guarded_print(_help_text())
    if arguments[0] in ("-V", "--version"):
        return _guarded_print(f"opsin {__version__}")
    verb = VERBS.get(arguments[0])
    if verb is None:
        return _complain(_unknown_verb(arguments[0]), 2)
    # The Hub's client would otherwise look up which program calls it, before it reads its own cache.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():  # its bars are made of carriage returns
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _tolerate_any_name()
    # Pillow's remarks on large and damaged photos: opsin skips what it cannot read, and says so itself.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        code = int(import_module(verb.module).main(arguments[1:]))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _abandon_stdout()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        return _exit_code(error)


def _tolerate_any_name() -> None:
    """Names of files that are no text, or not in the terminal's encoding, are printed with escapes: what a command has
    worked out is not lost over them. In JSON such an escape stands for the same bytes again (PEP 383)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _exit_code(error: BaseException) -> int:
    """Say on stderr what went wrong, in one line, and return the code to exit with."""
    if isinstance(error, SystemExit):
        return _exit_code_of_parser(error)
    if os.environ.get("OPSIN_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, UsageError):
        return _complain(str(error), 2)
    if isinstance(error, OpsinError):
        return _complain(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return _complain("interrupted", 130)
    if isinstance(error, OSError):
        return _complain(_reason_of_system(error), 1)
    if isinstance(error, MemoryError):
        reason = f" ({error})" if str(error) else ""
        return _complain(f"there is not enough memory{reason}; try fewer or smaller images at a time", 1)
    reason = " ".join(str(error).split())
    hint = "this is a bug in opsin or in a library under it; OPSIN_DEBUG=1 shows the traceback"
    return _complain(f"unexpected {type(error).__name__}: {reason[:500]} ({hint})", 1)


def _reason_of_system(error: OSError) -> str:
    """What the operating system refused, as a sentence: a full disk, a missing permission, too many open files."""
    where = error.filename if isinstance(error.filename, str | bytes) else None
    reason = error.strerror or str(error) or type(error).__name__
    hint = "; make room there, or write to another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{printable(os.fsdecode(where))}: {reason}{hint}" if where else f"{reason}{hint}"


def _exit_code_of_parser(error: SystemExit) -> int:
    """tyro leaves by SystemExit: 0 after printing help, 2 after printing what is wrong with the arguments."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    return _complain(str(error.code), 2)


def _reopen_closed_streams() -> None:
    """Give closed standard streams (`2>&-`) to the null device. The system would give the free descriptor to the next
    file that is opened, and messages would be written into that."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115, since it stays open


def _complain(message: str, code: int) -> int:
    print(f"opsin: {message}", file=sys.stderr)
    return code


def _guarded_print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        return _abandon_stdout()
    except OSError as error:
        return _exit_code(error)
    return 0


def _abandon_stdout() -> int:
    """Nobody takes what is printed (`| head`, a full disk): point stdout elsewhere, or Python complains again when it
    exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _unknown_verb(name: str) -> str:
    near = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(VERBS)}."
    return f"unknown verb {name!r}; {hint} 'opsin --help' says what each does."


def _help_text() -> str:
    lines = ["usage: opsin VERB [ARGUMENTS]", "", "verbs:"]
    lines += [f"  {name:<12}{verb.summary}" for name, verb in VERBS.items()]
    lines += [
        "",
        "'opsin VERB --help' lists the options of a verb that matter first, 'opsin VERB --help-all' all of them;",
        "'opsin --version' prints the version.",
        "Shared options: --json (one JSON document), --quiet, --offline (no network).",
        "A first look: 'opsin tour' trains small models and writes a report with pictures.",
    ]
    return "\n".join(lines)
