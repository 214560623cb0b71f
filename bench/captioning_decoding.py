"""Writing captions: 64 images, 30 tokens each, greedily, by a decoder of 256 columns, three layers and 1,000 words.

opsin is `opsin.captioning.decoding.greedy`: keys and values of earlier tokens are kept, and those of the image are
computed once. The peers:

- full recomputation: the same network, whose `forward` reads the whole caption again for every token, and the image;
- Hugging Face `generate`: the decoder of BartForConditionalGeneration with its own cache, of equal width, layers,
  heads, feed-forward size and vocabulary, which gets the image's vectors as the encoder's output; so it is spared the
  projection of the image that opsin makes.

No caption may end before 30 tokens, in any way, so that all do the same number of steps. Before anything is timed,
opsin's captions are compared with those of the full recomputation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness.timing import parse_arguments, print_machine, print_timings, time_in_turn
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from opsin.captioning.decoding import Limits, greedy
from opsin.captioning.model import CaptioningTransformer
from opsin.captioning.vocabulary import SPECIAL_WORDS
from opsin.runtime import autocast, resolve_device, resolve_precision

BATCH_SIZE, TOKENS = 64, 30
WORDS, PATCHES, WIDTH, LAYERS, HEADS, FEEDFORWARD = 1000, 64, 256, 3, 4, 1024
NULL, START, END, UNKNOWN = range(4)


def make_model() -> CaptioningTransformer:
    words = [*SPECIAL_WORDS, *(f"word{index}" for index in range(WORDS - len(SPECIAL_WORDS)))]
    model = CaptioningTransformer(
        {word: index for index, word in enumerate(words)},
        WIDTH,
        WIDTH,
        HEADS,
        LAYERS,
        TOKENS + 1,
        dim_feedforward=FEEDFORWARD,
        pre_norm=True,
        tie_weights=True,
    )
    return model.eval()


def make_bart() -> BartForConditionalGeneration:
    config = BartConfig(
        vocab_size=WORDS,
        d_model=WIDTH,
        encoder_layers=1,  # never run
        decoder_layers=LAYERS,
        decoder_attention_heads=HEADS,
        decoder_ffn_dim=FEEDFORWARD,
        max_position_embeddings=TOKENS + 2,
        pad_token_id=NULL,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config).eval()


@torch.no_grad()
def recompute_everything(model: CaptioningTransformer, features: Tensor) -> Tensor:
    """Tokens (N, 30) as `greedy` writes them, without keeping anything between steps."""
    captions = torch.full((len(features), 1), START, device=features.device)
    for _ in range(TOKENS):
        scores = model(features, captions)[:, -1].float()
        forbidden = [NULL, START, UNKNOWN] + [END] * (captions.shape[1] < TOKENS)
        scores[:, forbidden] = -torch.inf
        captions = torch.cat([captions, scores.argmax(dim=1, keepdim=True)], dim=1)
    return captions[:, 1:]


def generate(model: BartForConditionalGeneration, features: Tensor) -> Tensor:
    tokens = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=features),
        attention_mask=torch.ones(features.shape[:2], dtype=torch.int64, device=features.device),
        do_sample=False,
        num_beams=1,
        min_new_tokens=TOKENS,
        max_new_tokens=TOKENS,
    )
    return tokens[:, 1:]


def main() -> None:
    arguments = parse_arguments(__doc__, seconds=45)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    torch.manual_seed(0)
    batch_size = 2 if arguments.quick else BATCH_SIZE
    features = torch.randn(batch_size, PATCHES, WIDTH, device=device)
    model, bart = make_model().to(device), make_bart().to(device)
    limits = Limits(min_length=TOKENS - 1, max_length=TOKENS)

    def in_precision(write: Callable[[], Tensor], chosen: str) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with autocast(device, chosen):
                return write().cpu()

        return call

    ways = {
        "opsin": in_precision(lambda: greedy(model, features, limits).tokens, precision),
        "full recomputation": in_precision(lambda: recompute_everything(model, features), precision),
        "transformers generate": in_precision(lambda: generate(bart, features), precision),
    }
    with autocast(device, "32"):
        same = greedy(model, features, limits).tokens == recompute_everything(model, features)
    assert bool(same.all()), "the cache changes the captions"
    assert {tuple(way().shape) for way in ways.values()} == {(batch_size, TOKENS)}
    timings = time_in_turn(ways, seconds=arguments.seconds, quick=arguments.quick)
    print_machine(precision)
    print_timings(timings, "opsin", per_call=batch_size, unit="captions/s")


if __name__ == "__main__":
    main()
