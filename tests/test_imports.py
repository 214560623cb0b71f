"""The import rules of the package, as contracts in pyproject.toml, and what frequent commands import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from opsin.classification.config import ViTConfig
from opsin.classification.inference import Classifier, ClassifierContent, build_model
from opsin.images.preprocessing import Preprocessing
from opsin.search.index import ImageIndex

ROOT = Path(__file__).parents[1]
LINT_IMPORTS = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


SLOW = "{'torch._dynamo', 'matplotlib', 'lightning_fabric', 'timm', 'open_clip', 'transformers', 'sklearn'}"


def lint_imports(project: Path, sources: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT_IMPORTS, "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def test_contracts_hold() -> None:
    result = lint_imports(ROOT, ROOT / "src")
    assert result.returncode == 0, result.stdout + result.stderr


def test_contracts_notice_an_import_in_the_wrong_direction(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for source in (ROOT / "src").rglob("*.py"):
        copy = tmp_path / "src" / source.relative_to(ROOT / "src")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    errors = tmp_path / "src" / "opsin" / "errors.py"
    errors.write_text(errors.read_text(encoding="utf-8") + "\nfrom opsin import cli  # noqa\n", encoding="utf-8")
    result = lint_imports(tmp_path, tmp_path / "src")
    assert result.returncode == 1
    assert "opsin.errors is not allowed to import opsin.cli" in " ".join(result.stdout.split())


def test_answers_about_images_import_only_what_they_need(tmp_path: Path) -> None:
    """torch's compiler, which torchvision.models and random weights without memory import, alone takes seconds."""
    photo, index = tmp_path / "red.png", tmp_path / "index"
    Image.new("RGB", (32, 32), "red").save(photo)
    ImageIndex.create(index, "emoji-clip").update(tmp_path)
    config = ViTConfig(embed_dim=32, num_layers=2, num_heads=2, dim_feedforward=64, patch_size=8)
    model = build_model(config, image_size=16, num_classes=2)
    content = ClassifierContent(model=config, class_names=("cat", "dog"), preprocessing=Preprocessing(image_size=16))
    Classifier(model, content).save_pretrained(tmp_path / "model")
    commands = [
        ["classify", str(photo), "--model", str(tmp_path / "model")],
        ["classify", str(photo), "--labels", "a red square,a dog", "--model", "emoji-clip"],
        ["search", str(index), "red"],
        ["search", str(index), "--image", str(photo)],
        ["caption", str(photo)],
        ["generate", "red", "-n", "1", "--steps", "1", "--out", str(tmp_path / "grid.png")],
    ]
    code = f"""
from opsin.cli.main import main, sys
for command in {commands!r}:
    print(command[0], main(command), {SLOW} & sys.modules.keys(), file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    verdicts = [line for line in result.stderr.splitlines() if " 0 " in line and line.endswith(("()", "}"))]
    # A grid of samples is a plot.
    needed = [{"matplotlib"} if command[0] == "generate" else set() for command in commands]
    assert verdicts == [f"{command[0]} 0 {needs}" for command, needs in zip(commands, needed, strict=True)], (
        result.stderr
    )
