"""The course's training loop for the diffusion model."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.utils import save_image
from tqdm.auto import tqdm

from opsin.checkpoint import save_tensors
from opsin.diffusion.gaussian_diffusion import GaussianDiffusion
from opsin.errors import CheckpointError, CheckpointNotFoundError
from opsin.files import atomic_write
from opsin.state_dicts import load_state_dict, read_torch_file

NUM_SAMPLES = 25
KEYS = ("step", "model", "opt")


class Trainer:
    """Adam on shuffled batches of (image, {"text_emb", "text"}) items; what it makes goes to `results_folder`."""

    def __init__(
        self,
        diffusion_model: GaussianDiffusion,
        dataset: Dataset[Any],
        device: torch.device | str,
        *,
        train_batch_size: int = 256,
        train_lr: float = 1e-3,
        weight_decay: float = 0.0,
        train_num_steps: int = 100000,
        adam_betas: tuple[float, float] = (0.9, 0.99),
        sample_every: int = 1000,
        save_every: int = 10000,
        results_folder: str | Path,
    ) -> None:
        """`dataset` also has `random_model_kwargs(n)`, from which the sample pictures are drawn."""
        self.ds: Any = dataset
        self.device = torch.device(device)
        self.diffusion_model = diffusion_model.to(self.device)
        self.train_num_steps = train_num_steps
        self.sample_every = sample_every
        self.save_every = save_every
        self.results_folder = Path(results_folder)
        self.step = 0
        self.loader = DataLoader(dataset, batch_size=train_batch_size, shuffle=True, num_workers=0)
        self.opt = torch.optim.Adam(
            diffusion_model.parameters(), lr=train_lr, betas=adam_betas, weight_decay=weight_decay
        )

    def train(self) -> list[float]:
        """Go on to `train_num_steps`; returns the loss of each step."""
        losses = []
        batches = self._batches()
        with tqdm(initial=self.step, total=self.train_num_steps) as bar:
            while self.step < self.train_num_steps:
                losses.append(self._train_step(*next(batches)))
                self.step += 1
                bar.set_description(f"loss: {losses[-1]:.4f}")
                bar.update()
                if self.step % self.sample_every == 0:
                    self._save_samples()
                if self.step % self.save_every == 0:
                    self.save(self.step)
        return losses

    def save(self, milestone: int) -> None:
        """Write `model-MILESTONE.pt` with `step`, `model` and `opt`, whole or not at all.

        Raises CheckpointError when it cannot be written.
        """
        state = {"step": self.step, "model": self.diffusion_model.state_dict(), "opt": self.opt.state_dict()}
        save_tensors(self._file(milestone), state)

    def load(self, milestone: int) -> None:
        """Read what `save` wrote; nothing is unpickled but tensors and plain values, and nothing changed by a bad file.

        Raises CheckpointError when the file is absent, damaged, of another model, or holds weights that are no numbers.
        """
        path = self._file(milestone)
        print(f"loading model from {path}.")
        if not path.is_file():
            raise CheckpointNotFoundError(f"there is no checkpoint {path}")
        state = read_torch_file(path, device=self.device)
        if not isinstance(state, dict) or set(KEYS) - state.keys():
            raise CheckpointError(f"{path} is no checkpoint of this trainer: it needs {', '.join(KEYS)}")
        _refuse_other_types(state, path)
        before = copy.deepcopy((self.diffusion_model.state_dict(), self.opt.state_dict()))
        try:
            load_state_dict(self.diffusion_model, state["model"], str(path))
            self._load_opt(state["opt"], path)
            self._refuse_what_is_not_finite(path)
        except Exception as error:  # tensors can be of kinds that fail in any way
            self.diffusion_model.load_state_dict(before[0])
            self.opt.load_state_dict(before[1])
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"the weights in {path} do not fit this model: {error}") from error
        self.step = state["step"]

    def _load_opt(self, state: dict[str, Any], path: Path) -> None:
        """Load Adam's state; torch itself looks at little more than the number of parameters in it."""
        try:
            self.opt.load_state_dict(state)
            for parameter, moments in self.opt.state.items():
                for name in ("exp_avg", "exp_avg_sq"):
                    if moments[name].shape != parameter.shape:
                        raise ValueError(f"{name} of shape {tuple(moments[name].shape)} for {tuple(parameter.shape)}")
        except Exception as error:  # it can hold anything, and fail in any way
            raise CheckpointError(f"the optimiser state in {path} does not fit this model: {error}") from error

    def _refuse_what_is_not_finite(self, path: Path) -> None:
        weights = self.diffusion_model.state_dict()
        if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise CheckpointError(f"{path}: {len(broken)} weights are not finite, for example {broken[0]}")
        moments = [value for own in self.opt.state.values() for value in own.values() if isinstance(value, Tensor)]
        if not all(value.isfinite().all() for value in moments):
            raise CheckpointError(f"the optimiser state in {path} is not finite")

    def _train_step(self, images: Tensor, model_kwargs: dict[str, Any]) -> float:
        self.diffusion_model.train()
        self.opt.zero_grad()
        loss = self.diffusion_model.p_losses(images.to(self.device), self._on_device(model_kwargs))
        loss.backward()
        nn.utils.clip_grad_norm_(self.diffusion_model.parameters(), 1.0)
        self.opt.step()
        return float(loss.detach())

    def _save_samples(self) -> None:
        """A square grid of drawings; `sample` puts the network back into training mode."""
        model_kwargs = self._on_device(self.ds.random_model_kwargs(NUM_SAMPLES))
        images = self.diffusion_model.sample(batch_size=NUM_SAMPLES, model_kwargs=model_kwargs).clamp(0, 1)
        with atomic_write(self.results_folder / f"sample-{self.step}.png") as file:
            save_image(images, file, nrow=math.isqrt(NUM_SAMPLES), format="png")

    def _batches(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(itertools.repeat(self.loader))

    def _on_device(self, model_kwargs: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in model_kwargs.items()
        }

    def _file(self, milestone: int) -> Path:
        return self.results_folder / f"model-{milestone}.pt"


def _refuse_other_types(state: dict[str, Any], path: Path) -> None:
    step, weights, opt = (state[key] for key in KEYS)
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise CheckpointError(f"{path}: step must be a whole number, not {step!r:.80}")
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path}: model must be a dictionary of tensors")
    if not isinstance(opt, dict):
        raise CheckpointError(f"{path}: opt must be the state of an optimiser, not {type(opt).__name__}")
