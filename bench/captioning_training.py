"""One training step (forward, backward, optimiser) of the course's captioning transformer: 64 captions of 17 words.

The network has the sizes of the course's notebook: features of 512 columns, width 256, two layers of two heads, a
feed-forward network of 2,048, and 1,004 words. opsin runs the step as `opsin train captioner` does: `CaptioningTask`
with the trainer's optimiser and gradient clipping on Lightning Fabric, bf16 where the hardware has it. The peers run a
step as a first script would, with the same dropout:

- plain: explicit softmax, three projections, float32, Adam; computes the same function as opsin's model;
- torch.nn: torch.nn.TransformerDecoder with `gelu`, float32, Adam; computes the same function too.

The scores of the peers, with opsin's weights, are compared with opsin's before anything is timed. "plain, autocast"
shows what lower precision alone gives, and "opsin, float32" what opsin gives without it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from harness.captioning_transformers import COURSE_DECODER, FEATURES, PlainCaptioner, TorchCaptioner
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from torch import Tensor, nn

from opsin.captioning.config import CaptioningConfig
from opsin.captioning.data import CaptionTable, FeatureCaptionDataset
from opsin.captioning.evaluation import caption_loss
from opsin.captioning.model import build_model
from opsin.captioning.splits import CaptionSplits
from opsin.captioning.train import CaptioningTask
from opsin.captioning.vocabulary import SPECIAL_WORDS, Vocabulary
from opsin.runtime import autocast, resolve_device, resolve_precision
from opsin.training.config import TrainingConfig
from opsin.training.optim import build_optimizer
from opsin.training.processes import make_fabric

BATCH_SIZE, LENGTH, WORDS = 64, 17, 1004
VOCABULARY = Vocabulary((*SPECIAL_WORDS, *(f"word{index}" for index in range(WORDS - len(SPECIAL_WORDS)))))
CONFIG = CaptioningConfig(decoder=COURSE_DECODER)


def opsin_step(features: Tensor, captions: Tensor, precision: str) -> Callable[[], float]:
    """A step as the trainer takes it."""
    table = CaptionTable(captions.cpu(), np.arange(len(captions) + 1), VOCABULARY)
    train = FeatureCaptionDataset(features.cpu().numpy(), table)
    splits = CaptionSplits(datasets={"train": train}, vocabulary=VOCABULARY, feature_dim=FEATURES)
    task = CaptioningTask(CONFIG, splits)
    config = TrainingConfig(max_steps=1, device=features.device.type, precision=precision)
    fabric = make_fabric(config)
    wrapped, optimizer = fabric.setup(task, build_optimizer(task, config))
    generator = torch.Generator(features.device).manual_seed(0)
    counts = torch.ones(len(captions), dtype=torch.int64, device=captions.device)
    batch = {"feature": features, "captions": captions[:, None], "num_captions": counts}

    def step() -> float:
        optimizer.zero_grad()
        loss = wrapped(batch, generator).loss
        fabric.backward(loss)
        fabric.clip_gradients(wrapped, optimizer, max_norm=config.grad_clip, error_if_nonfinite=False)
        optimizer.step()
        return loss.item()

    return step


def plain_step(model: nn.Module, features: Tensor, captions: Tensor, precision: str = "32") -> Callable[[], float]:
    """A step as a first script would take it."""
    model.to(features.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> float:
        with autocast(features.device, precision):
            scores = model(features, captions[:, :-1])
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), captions[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@torch.no_grad()
def check_peers(features: Tensor, captions: Tensor) -> None:
    """Peers with opsin's weights give opsin's scores, and therefore the same loss."""
    model = build_model(CONFIG.encoder, CONFIG.decoder, CONFIG.image_size, VOCABULARY, FEATURES).decoder.eval()
    expected = model(features.cpu(), captions[:, :-1].cpu())
    assert caption_loss(expected, captions[:, 1:].cpu(), 0).isfinite()
    for peer in (PlainCaptioner(WORDS), TorchCaptioner(WORDS)):
        peer.copy_weights(model)
        scores = peer.eval()(features.cpu(), captions[:, :-1].cpu())
        name = type(peer).__name__
        torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-4, msg=f"{name} computes something else")


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=45)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    torch.manual_seed(0)
    batch_size = 4 if arguments.quick else BATCH_SIZE
    features = torch.randn(batch_size, FEATURES, device=device)
    captions = torch.randint(1, WORDS, (batch_size, LENGTH), device=device)
    check_peers(features, captions)
    ways = {
        "opsin": opsin_step(features, captions, precision),
        "plain": plain_step(PlainCaptioner(WORDS), features, captions),
        "torch.nn": plain_step(TorchCaptioner(WORDS), features, captions),
    }
    if precision != "32":
        ways["plain, autocast"] = plain_step(PlainCaptioner(WORDS), features, captions, precision)
        ways["opsin, float32"] = opsin_step(features, captions, "32")
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print_machine(precision)
    print_timings(timings, "opsin", per_call=batch_size, unit="captions/s")


if __name__ == "__main__":
    main()
