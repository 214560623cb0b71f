"""Drawing from a text-conditioned diffusion model: fewer steps, and guidance as one batch, at 32 x 32 pixels.

The network has the sizes of the course's notebook (12.4 million parameters, 100 time steps of noise). Its weights are
random, because the time does not depend on them; whether a way of drawing is as faithful as another is a matter of
`opsin evaluate`, not of this script.

- Images a second, four at a time and guided, as `opsin generate` draws them: the default sampler (DPM-Solver++) with 20
  and with 10 steps, and ancestral sampling with all 100 steps; and the same 100 steps by the loop of a first script:
  p_sample in float32, channels first, the network called twice a step.
- One guided prediction for one image and for 16: as one batch of twice the size, and as two calls. Before it is timed,
  both are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness.diffusion_unets import COURSE_UNET, IMAGE_SIZE, PROCESS, TEXT_DIM, course_model, plain_model
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from torch import Tensor

from opsin.diffusion.inference import Sampling, TextToImage
from opsin.diffusion.model import DiffusionContent
from opsin.diffusion.unet import Unet
from opsin.runtime import autocast, resolve_device, resolve_precision

DRAWN, PREDICTED = 4, (1, 16)
GUIDANCE = 2.0


def opsin_drawing(model: TextToImage, vectors: Tensor, sampling: Sampling) -> Callable[[], Tensor]:
    """Images as `opsin generate` draws them, given the vectors of the prompts."""
    return lambda: model.draw(vectors, sampling)


def plain_drawing(vectors: Tensor, steps: int) -> Callable[[], Tensor]:
    """Algorithm 2 of Ho et al. with guidance, one operation after the other."""
    diffusion = plain_model().to(vectors.device).eval().diffusion
    network = diffusion.model

    @torch.no_grad()
    def draw() -> Tensor:
        x = torch.randn(len(vectors), 3, IMAGE_SIZE, IMAGE_SIZE, device=vectors.device)
        for step in reversed(range(PROCESS.timesteps - steps, PROCESS.timesteps)):
            t = torch.full((len(x),), step, device=x.device)
            conditional, unconditional = network(x, t, {"text_emb": vectors}), network(x, t)
            v = (GUIDANCE + 1) * conditional - GUIDANCE * unconditional
            mean, std = diffusion.q_posterior(diffusion.predict_start_from_v(x, t, v).clamp(-1, 1), x, t)
            x = mean + std * torch.randn_like(x)
        return x.cpu()

    return draw


def guided_predictions(unet: Unet, vectors: Tensor, precision: str) -> dict[str, Callable[[], Tensor]]:
    """Both ways of one guided prediction for each of the vectors."""
    x = torch.randn(len(vectors), 3, IMAGE_SIZE, IMAGE_SIZE, device=vectors.device)
    x = x.contiguous(memory_format=torch.channels_last)
    t = torch.full((len(x),), PROCESS.timesteps // 2, device=x.device)

    @torch.inference_mode()
    def one_batch() -> Tensor:
        with autocast(x.device, precision):
            return unet(x, t, {"text_emb": vectors, "cfg_scale": GUIDANCE}).float().cpu()

    @torch.inference_mode()
    def two_calls() -> Tensor:
        with autocast(x.device, precision):
            conditional, unconditional = unet(x, t, {"text_emb": vectors}), unet(x, t)
            return ((GUIDANCE + 1) * conditional - GUIDANCE * unconditional).float().cpu()

    return {"one batch": one_batch, "two calls": two_calls}


def check_guidance(unet: Unet, vectors: Tensor) -> None:
    """Both ways give the same numbers, up to the rounding of a GPU's float32."""
    ways = guided_predictions(unet, vectors, "32")
    torch.testing.assert_close(ways["one batch"](), ways["two calls"](), rtol=1e-3, atol=1e-2)


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=150)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    torch.manual_seed(0)
    network = course_model().to(device).to(memory_format=torch.channels_last)
    content = DiffusionContent(
        model=COURSE_UNET, process=PROCESS, image_size=IMAGE_SIZE, text_encoder="none", text_dim=TEXT_DIM
    )
    model = TextToImage(network, content, precision=precision)
    vectors = torch.randn(2 if arguments.quick else DRAWN, TEXT_DIM, device=device)
    unet = network.diffusion.model
    assert isinstance(unet, Unet)
    check_guidance(unet, vectors)

    many, few, fewer = (4, 2, 1) if arguments.quick else (PROCESS.timesteps, 20, 10)
    ways = {
        f"default, {few} steps": opsin_drawing(model, vectors, Sampling(guidance_scale=GUIDANCE, steps=few)),
        f"default, {fewer} steps": opsin_drawing(model, vectors, Sampling(guidance_scale=GUIDANCE, steps=fewer)),
        f"DDPM, {many} steps": opsin_drawing(
            model, vectors, Sampling(guidance_scale=GUIDANCE, steps=many, sampler="ddpm")
        ),
        f"plain DDPM, {many} steps": plain_drawing(vectors, many),
    }
    print_machine(precision)
    timings = time_in_turn(ways, seconds=0.7 * arguments.seconds, quick=arguments.quick)
    print_timings(timings, f"default, {few} steps", per_call=len(vectors), unit="images/s")
    for count in (1, 2) if arguments.quick else PREDICTED:
        timings = time_in_turn(
            guided_predictions(unet, torch.randn(count, TEXT_DIM, device=device), precision),
            seconds=0.15 * arguments.seconds,
            quick=arguments.quick,
        )
        print(f"a guided prediction, {count} images")
        print_timings(timings, "one batch", per_call=count, unit="images/s")


if __name__ == "__main__":
    main()
