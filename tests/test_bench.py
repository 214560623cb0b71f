"""The benchmark scripts still run. Nothing here looks at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "bench").glob("*.py"))


def test_there_is_a_script_for_each_workload() -> None:
    names = {script.stem for script in SCRIPTS}
    assert names >= {"attention", "captioning_decoding", "captioning_training", "data_loading", "startup"}
    assert names >= {"diffusion_sampling", "diffusion_training", "indexing", "search", "vit_inference", "vit_training"}
    assert names >= {"augmentation", "knn", "linear_probe", "nt_xent_loss", "simclr_training"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_prints_the_machine_and_its_ratios(script: Path) -> None:
    """The scripts check their own claims as well: equal scores of the peers, no torch in `import opsin`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::DeprecationWarning", str(script), "--quick"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    machine, *table = result.stdout.splitlines()
    assert "1 threads, torch" in machine
    assert any(line.startswith("time ratio: ") for line in table)
