"""Using a trained diffusion model: images from prompts, from other images, and its directory.

Dimensions: N images, S steps, C channels, H and W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opsin import checkpoint
from opsin.data.pixels import fit_image
from opsin.data.unread import warn_of_unread
from opsin.diffusion.config import ProcessConfig, UnetConfig
from opsin.diffusion.denoising import Threshold, keep_known, make_denoiser, slerp
from opsin.diffusion.directory import KIND, DiffusionContent, read_model, write_model
from opsin.diffusion.drawings import Generation, Sampling, images_of
from opsin.diffusion.masks import read_mask
from opsin.diffusion.model import TextDiffusion
from opsin.diffusion.samplers import NoisePath, SamplerName, Spacing, get_sampler, noise_from, spaced_timesteps
from opsin.diffusion.text import is_blank, load_text_encoder, text_features
from opsin.domain import Watch
from opsin.encoders.base import TextEncoder, unread_texts
from opsin.encoders.fingerprint import refuse_other_encoder
from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.images.opening import ImageLike, open_image
from opsin.pretrained import domain_content, read_watch
from opsin.runtime import autocast, refuse_damaged, resolve_device, resolve_precision


class TextToImage:
    """A diffusion network with its text encoder's name and its settings: all that its directory holds."""

    kind = KIND

    def __init__(
        self,
        model: TextDiffusion,
        config: UnetConfig,
        process: ProcessConfig,
        text_encoder: str,
        *,
        text_fingerprint: str | None = None,
        loaded_encoder: TextEncoder | None = None,
        metrics: Mapping[str, float] | None = None,
        training: Mapping[str, Any] | None = None,
        precision: str = "auto",
    ) -> None:
        """`text_encoder` is a reference of `load_text_encoder`, loaded when it is first needed, and refused then if it
        has another `text_fingerprint`, unless `loaded_encoder` is given; `training` is the resolved config of the run
        that made the model, as JSON types."""
        self.model = model.eval()
        self.config = config
        self.process = process
        self.text_encoder = text_encoder
        self.text_fingerprint = text_fingerprint
        self._loaded_encoder = loaded_encoder
        self._told: set[str] = set()
        self.metrics = dict(metrics or {})
        self.training = dict(training or {})
        self.watch = Watch()
        """Counts images given to `vary` that look unlike the training images."""
        self.precision = resolve_precision(precision, self.device)  # refuses here what drawing would refuse later

    @property
    def device(self) -> torch.device:
        return self.model.text_mean.device

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        return self.model.diffusion.image_size

    @classmethod
    def from_pretrained(
        cls,
        ref: str | Path,
        device: str = "auto",
        precision: str = "auto",
        *,
        text_encoder: TextEncoder | str | None = None,
    ) -> TextToImage:
        """Load a zoo name, a run or model directory, or `hf-hub:ORG/NAME`.

        `text_encoder` takes the place of the one that the model was trained with: a reference says where that one is
        now, and another one is refused; an encoder must give the same vectors, which is not checked.
        Raises CheckpointError, OfflineError, and ConfigError for a device or precision that this machine lacks.
        """
        directory = checkpoint.resolve_model(ref)
        content, model = read_model(directory)
        loaded = cls(
            model.to(resolve_device(device)),
            content.model,
            content.process,
            text_encoder if isinstance(text_encoder, str) else content.text_encoder,
            text_fingerprint=content.text_fingerprint,
            loaded_encoder=None if isinstance(text_encoder, str) else text_encoder,
            metrics=content.metrics,
            training=content.training,
            precision=precision,
        )
        loaded.watch = read_watch(directory)
        return loaded

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write config.json, model.safetensors and README.md, replacing the directory in one step."""
        content = DiffusionContent(
            model=self.config,
            process=self.process,
            image_size=self.image_size,
            text_encoder=self.text_encoder,
            text_fingerprint=self.text_fingerprint,
            text_dim=len(self.model.text_mean),
            metrics=self.metrics,
            training=self.training,
        )
        return write_model(directory, content, self.model, domain_content(self.watch))

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload to the Hugging Face Hub; returns the repository's address."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            return checkpoint.push_to_hub(self.save_pretrained(Path(folder) / "model"), repo_id, private=private)

    # ------------------------------------------------------------------------------------------ pictures

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        num_images: int = 1,
        guidance_scale: float = 2.0,
        steps: int | None = None,
        sampler: SamplerName = "dpm-solver",
        generator: torch.Generator | None = None,
        spacing: Spacing = "trailing",
        threshold: Threshold = "static",
        trajectory: bool = False,
        batch_size: int = 64,
    ) -> list[Generation]:
        """`num_images` drawings of each prompt; see `Sampling`. An empty prompt asks for nothing in particular.

        The same generator state gives the same images; without one it is seeded with 0. The noise that the sampler ddpm
        adds is drawn batch by batch: other images with another `batch_size`. Raises ConfigError for settings that make
        no sense, and what the text encoder raises.
        """
        sampling = Sampling(
            guidance_scale=guidance_scale, steps=steps, sampler=sampler, spacing=spacing, threshold=threshold
        )
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if num_images < 1 or batch_size < 1:
            raise ConfigError(f"num_images ({num_images}) and batch_size ({batch_size}) must be at least 1")
        if not texts:
            return []
        vectors = self.encode_prompts(texts).repeat_interleave(num_images, dim=0)
        states = self.draw(vectors, sampling, generator=generator, trajectory=trajectory, batch_size=batch_size)
        pictures = [tuple(images_of(row)) for row in states]
        results = []
        for index, text in enumerate(texts):
            own = pictures[index * num_images : (index + 1) * num_images]
            results.append(Generation(text, tuple(row[-1] for row in own), tuple(own) if trajectory else ()))
        return results

    def vary(
        self,
        image: ImageLike,
        prompt: str,
        *,
        strength: float | None = None,
        mask: ImageLike | None = None,
        num_images: int = 1,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
    ) -> Generation:
        """Drawings of the prompt that begin at a noised image, or that replace a part of it.

        `strength` in (0, 1] is the share of the noise schedule that is gone through, in that share of the steps: little
        keeps the image, 1 only what `mask` protects; by default it is 1 with a mask and 0.6 without. `mask` is white
        where the image may change, and of the image's size or that size scaled. Raises DataError for a broken image,
        ConfigError for settings that make no sense, a mask of another shape than the image, and one without white.
        """
        if num_images < 1:
            raise ConfigError(f"num_images must be at least 1, not {num_images}")
        strength = strength if strength is not None else (0.6 if mask is None else 1.0)
        if not 0 < strength <= 1:
            raise ConfigError(f"strength must be above 0 and at most 1, not {strength}")
        picture = open_image(image)
        fitted = torch.from_numpy(fit_image(picture, self.image_size))
        self.watch.see(fitted[None])
        known = (fitted.float() / 127.5 - 1)[None].expand(num_images, -1, -1, -1).to(self.device)
        region = None if mask is None else read_mask(mask, picture.size, self.image_size).to(self.device)
        vectors = self.encode_prompts([prompt]).expand(num_images, -1)
        states = self.draw(
            vectors, sampling or Sampling(), generator=generator, known=known, strength=strength, mask=region
        )
        return Generation(prompt, tuple(images_of(states[:, -1])))

    def interpolate(
        self,
        first: str,
        second: str,
        *,
        num_images: int = 7,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
    ) -> Generation:
        """Drawings on the way from one prompt to the other, all from the same noise."""
        if num_images < 2:
            raise ConfigError(f"an interpolation takes at least 2 images, not {num_images}")
        start, end = self.encode_prompts([first, second])
        vectors = torch.stack([slerp(start, end, index / (num_images - 1)) for index in range(num_images)])
        states = self.draw(vectors, sampling or Sampling(), generator=generator, same_noise=True)
        return Generation(f"from {first!r} to {second!r}", tuple(images_of(states[:, -1])))

    # ----------------------------------------------------------------------------------------- the engine

    def load_text_encoder(self) -> TextEncoder:
        """The text encoder that the model was trained with.

        Raises CheckpointError when the one of that name has other weights now, and what
        `opsin.diffusion.text.load_text_encoder` raises.
        """
        if self._loaded_encoder is None:
            try:
                encoder = load_text_encoder(self.text_encoder, str(self.device))
            except (CheckpointError, DataError) as error:
                raise type(error)(
                    "the text encoder of the model cannot be used; if it was moved, say where it is now with "
                    f"--text-encoder, in Python with from_pretrained(text_encoder=…): {error}"
                ) from error
            refuse_other_encoder(encoder, self.text_fingerprint, "--text-encoder")
            self._loaded_encoder = encoder
        return self._loaded_encoder

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """float32 (N, E) on the model's device, as the network takes them; zeros for a prompt with nothing to read.

        A warning is logged about prompts that the text encoder cannot read as a whole, where that can be told; once
        about each.
        """
        texts = ["" if is_blank(prompt) else prompt.strip() for prompt in prompts]
        vectors = torch.zeros(len(texts), len(self.model.text_mean), device=self.device)
        if written := [index for index, text in enumerate(texts) if text]:
            encoder, asked = self.load_text_encoder(), [texts[index] for index in written]
            self._tell_what_is_unread(encoder, asked)
            features = text_features(encoder, asked).to(self.device)
            if features.shape[1] != vectors.shape[1]:
                raise DataError(
                    f"the text encoder {self.text_encoder} gives vectors of width {features.shape[1]}; this model was "
                    f"trained with {vectors.shape[1]}"
                )
            vectors[written] = self.model.scaled(features)
        return vectors

    def _tell_what_is_unread(self, encoder: TextEncoder, prompts: Sequence[str]) -> None:
        unread = unread_texts(encoder, prompts)
        found = {*unread.unreadable, *unread.cut}
        if found - self._told:
            effect = "the drawings have nothing to do with what is not read"
            warn_of_unread(unread, encoder.name, "prompt", effect)
            self._told |= found

    @torch.inference_mode()
    def draw(
        self,
        vectors: Tensor,
        sampling: Sampling,
        *,
        generator: torch.Generator | None = None,
        trajectory: bool = False,
        batch_size: int = 64,
        same_noise: bool = False,
        known: Tensor | None = None,
        strength: float = 1.0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Images (N, 1, C, H, W) in [-1, 1] on the CPU for vectors (N, E) of `encode_prompts`.

        With `trajectory` (N, S + 1, C, H, W), the noise first. With `same_noise` all images get the same, at the
        beginning and at each step. `known` (N, C, H, W) is where to begin, `mask` (1, 1, H, W) the part of it that may
        change.
        """
        diffusion = self.model.diffusion
        total = diffusion.num_timesteps
        path = NoisePath.from_schedule(
            diffusion.alphas_cumprod, spaced_timesteps(total, sampling.steps_of(total), sampling.spacing, strength)
        )
        generator = generator or torch.Generator().manual_seed(0)
        fresh = noise_from(generator, shared=same_noise)
        shape = (len(vectors), diffusion.channels, diffusion.image_size, diffusion.image_size)
        noise = fresh(vectors.new_empty(shape))
        after_beginning = generator.get_state()
        if known is not None and strength < 1:
            noise = path.alphas[0] * known + path.sigmas[0] * noise
        results = []
        for start in range(0, len(vectors), batch_size):
            chosen = slice(start, start + batch_size)
            if same_noise:
                generator.set_state(after_beginning)
            conditions = {"text_emb": vectors[chosen], "cfg_scale": sampling.guidance_scale}
            denoise = make_denoiser(diffusion, conditions, sampling.threshold)
            if known is not None and mask is not None:
                denoise = keep_known(denoise, known[chosen], mask)
            with autocast(self.device, self.precision):
                after_steps = get_sampler(sampling.sampler)(denoise, noise[chosen], path, fresh)
                states = [noise[chosen], *after_steps] if trajectory else list(deque(after_steps, maxlen=1))
            results.append(torch.stack(states, dim=1).float().cpu())
        images = torch.cat(results)
        refuse_damaged(images, "the network")
        return images
