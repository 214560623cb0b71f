"""Using a trained diffusion model: images from prompts, from other images, and its directory.

Dimensions: N images, S steps, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from opsin.data.pixels import fit_image
from opsin.data.unread import warn_of_unread
from opsin.diffusion.denoising import keep_known, make_denoiser, read_mask, slerp
from opsin.diffusion.drawings import Generation, Sampling, images_of
from opsin.diffusion.model import DiffusionContent, TextDiffusion, build_model
from opsin.diffusion.samplers import NoisePath, get_sampler, noise_from, spaced_timesteps
from opsin.diffusion.text import is_blank, load_text_encoder, text_features
from opsin.encoders.base import TextEncoder, unread_texts
from opsin.encoders.fingerprint import refuse_other_encoder
from opsin.errors import CheckpointError, ConfigError, DataError
from opsin.images.opening import ImageLike, open_image
from opsin.model_cards import CardText, inline_code
from opsin.pretrained import Example, PretrainedModel
from opsin.progress import Progress, working
from opsin.runtime import autocast, refuse_damaged, resolve_precision


class TextToImage(PretrainedModel):
    """A diffusion network with its text encoder's name and its settings: all that its directory holds.

    Its watch counts images given to `vary` that look unlike the training images.
    """

    kind = "text-diffusion"
    content_class = DiffusionContent
    model: TextDiffusion
    content: DiffusionContent

    def __init__(
        self,
        model: TextDiffusion,
        content: DiffusionContent,
        *,
        name: str | None = None,
        precision: str = "auto",
        loaded_encoder: TextEncoder | None = None,
    ) -> None:
        """See `PretrainedModel`. The text encoder is loaded when it is first needed, and refused then if it has another
        fingerprint, unless `loaded_encoder` is given."""
        super().__init__(model, content, name=name, precision=precision)
        self.precision = resolve_precision(precision, self.device)
        self._loaded_encoder = loaded_encoder
        self._told: set[str] = set()

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        return self.content.image_size

    @property
    def text_encoder(self) -> str:
        """The reference of the text encoder."""
        return self.content.text_encoder

    @classmethod
    def from_pretrained(
        cls,
        ref: str | Path,
        device: str = "auto",
        precision: str = "auto",
        *,
        text_encoder: TextEncoder | str | None = None,
    ) -> Self:
        """Load a zoo name, a run or model directory, or `hf-hub:ORG/NAME`.

        `text_encoder` takes the place of the one that the model was trained with: a reference says where that one is
        now, and another one is refused; an encoder must give the same vectors, which is not checked.
        Raises CheckpointError, OfflineError, and ConfigError for a device or precision that this machine lacks.
        """
        model = super().from_pretrained(ref, device, precision)
        model.model.to(memory_format=torch.channels_last)
        if isinstance(text_encoder, str):
            model.content = replace(model.content, text_encoder=text_encoder)
        else:
            model._loaded_encoder = text_encoder
        return model

    @classmethod
    def build(cls, content: DiffusionContent) -> TextDiffusion:
        return build_model(content.model, content.process, content.image_size, content.text_dim)

    @classmethod
    def is_derived(cls, name: str) -> bool:
        """The noise schedule follows from the settings; rounded to float16 it would be another one."""
        return name.startswith("diffusion.") and not name.startswith("diffusion.model.")

    def example_inputs(self) -> Example:
        """One evaluation of the network, of which an image takes one a step, and two with guidance."""
        network = self.model.diffusion.model
        assert network is not None
        _, (image,), words, size = Example.of_image(network, self.image_size)
        return Example(network, (image, torch.zeros(1, dtype=torch.int64)), f"{words}, one evaluation", size)

    def card_text(self) -> CardText:
        return CardText(
            title="Text-to-image diffusion model",
            tags=("text-to-image",),
            description=f"""
Generates images of {self.image_size} x {self.image_size} pixels from a prompt. Trained with opsin on the images and
captions of the source {self.trained_on()}; `config.json` holds every setting of the run under
`training`. Prompts go through the text encoder {inline_code(self.text_encoder)}, which is not in this directory.
""",
            notes="""
`val_loss` is the mean squared error of the network's prediction, without the weights of the training loss, on images
held out from training, averaged over time steps; `val_loss_t…` is that of a single time step. `seen_loss` is the same
on images that were trained on, where none are held out. Neither says how good the samples are. The model knows its
training captions: expect less of prompts that are unlike them.
""",
            command='opsin generate "PROMPT" --model THIS_DIRECTORY --out grid.png',
        )

    # ------------------------------------------------------------------------------------------ pictures

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        num_images: int = 1,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        trajectory: bool = False,
        batch_size: int = 64,
        progress: Progress | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """`num_images` drawings of each prompt; an empty one asks for nothing in particular.

        `settings` change fields of `sampling` (see `Sampling`), such as `guidance_scale=3`.

        The same generator state gives the same images; without one it is seeded with 0. The noise that the sampler ddpm
        adds is drawn batch by batch: other images with another `batch_size`. Raises ConfigError for settings that make
        no sense, Cancelled, and what the text encoder raises.
        """
        sampling = replace(sampling or Sampling(), **settings)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if num_images < 1 or batch_size < 1:
            raise ConfigError(f"num_images ({num_images}) and batch_size ({batch_size}) must be at least 1")
        if not texts:
            return []
        vectors = self.encode_prompts(texts).repeat_interleave(num_images, dim=0)
        states = self.draw(
            vectors,
            sampling,
            generator=generator,
            trajectory=trajectory,
            batch_size=batch_size,
            progress=progress,
        )
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
        progress: Progress | None = None,
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
            vectors,
            sampling or Sampling(),
            generator=generator,
            known=known,
            strength=strength,
            mask=region,
            progress=progress,
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
        progress: Progress | None = None,
    ) -> Generation:
        """Drawings on the way from one prompt to the other, all from the same noise."""
        if num_images < 2:
            raise ConfigError(f"an interpolation takes at least 2 images, not {num_images}")
        start, end = self.encode_prompts([first, second])
        vectors = torch.stack([slerp(start, end, index / (num_images - 1)) for index in range(num_images)])
        states = self.draw(vectors, sampling or Sampling(), generator=generator, same_noise=True, progress=progress)
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
            refuse_other_encoder(encoder, self.content.text_fingerprint, "--text-encoder")
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
        progress: Progress | None = None,
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
        starts = range(0, len(vectors), batch_size)
        with working(progress, "generating", len(starts) * len(path), unit="steps") as advance:
            for start in starts:
                chosen = slice(start, start + batch_size)
                if same_noise:
                    generator.set_state(after_beginning)
                conditions = {"text_emb": vectors[chosen], "cfg_scale": sampling.guidance_scale}
                denoise = make_denoiser(diffusion, conditions, sampling.threshold)
                if known is not None and mask is not None:
                    denoise = keep_known(denoise, known[chosen], mask)
                states = [noise[chosen]]
                with autocast(self.device, self.precision):
                    for state in get_sampler(sampling.sampler)(denoise, noise[chosen], path, fresh):
                        states = [*states, state] if trajectory else [state]
                        advance(1)
                results.append(torch.stack(states, dim=1).float().cpu())
        images = torch.cat(results)
        refuse_damaged(images, "the network")
        return images
