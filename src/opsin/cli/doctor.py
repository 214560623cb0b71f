"""`opsin doctor`: what this machine offers, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from opsin.cli.options import SharedOptions, parse
from opsin.cli.output import human_bytes, note, print_json, print_table

if TYPE_CHECKING:
    from opsin.doctor import Diagnosis

DESCRIPTION = "Report hardware, versions, native bf16, caches, disk space, and which extras are installed."


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(SharedOptions):
    """Options of `opsin doctor`."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit code."""
    options = parse(DoctorOptions, argv, "opsin doctor", DESCRIPTION)
    from opsin.doctor import diagnose

    diagnosis = diagnose()
    if options.json:
        print_json(asdict(diagnosis))
        return 0
    print_table(("what", "found"), list(_rows(diagnosis)))
    note("next: opsin tour (trains small models and writes a report), or opsin data list", options.quiet)
    return 0


def _rows(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    hardware = diagnosis.hardware
    yield "opsin", diagnosis.opsin
    yield "Python", f"{diagnosis.python} on {diagnosis.system}"
    yield "processor", f"{hardware.cpu}, {hardware.usable_cores} of {hardware.cores} cores usable"
    yield "memory", "unknown" if hardware.memory is None else human_bytes(hardware.memory)
    yield "accelerator", "; ".join(hardware.accelerators) or "none"
    yield "--device auto", hardware.device
    native = "native bf16" if hardware.native_bf16 else "no native bf16"
    yield "--precision auto", f"{hardware.precision} ({native})"
    for name, version in diagnosis.packages.items():
        yield name, version or "not installed"
    for name, installed in diagnosis.extras.items():
        yield (
            f"extra {name}",
            "installed"
            if installed
            else f"not installed (in a checkout: pip install -c constraints.txt -e '.[{name}]')",
        )
    yield "models in the package", ", ".join(diagnosis.zoo) or "none"
    yield "network", "off (offline)" if diagnosis.offline else "may be used"
    yield "cache", f"{diagnosis.cache_directory}, {human_bytes(diagnosis.free_disk)} free"
    yield (
        "emoji source",
        "built" if diagnosis.emoji_built else "built when first used: opsin data prepare emoji",
    )
    for entry in diagnosis.cache:
        yield f"cache: {entry.name}", human_bytes(entry.size)
