"""Writing captions word by word: greedy, beam search, nucleus sampling.

All decoders work on a batch of images, keep the keys and values of earlier words, and stop as soon as every caption
has ended. `<NULL>`, `<START>` and `<UNK>` are never written.

Nucleus sampling: "The Curious Case of Neural Text Degeneration", Holtzman et al. 2020. Length penalty: the total
log-probability is divided by length ** penalty, as in "Google's Neural Machine Translation System", Wu et al. 2016,
section 7, without its constants.

Dimensions: N images, B beams, R captions written at once, T words so far, V words in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from opsin.captioning.model import CaptioningTransformer
from opsin.config import Bounds, Config
from opsin.errors import ConfigError
from opsin.runtime import evaluating


@dataclass(frozen=True, kw_only=True)
class Limits(Config):
    """What a written caption must keep to, whatever the decoder."""

    min_length: int = 1
    """Words before a caption may end."""
    max_length: int = 30
    """Tokens at most, `<END>` counted; a caption that has not ended by then is cut."""
    no_repeat_ngram: Annotated[int, Bounds(0)] = 0
    """No run of so many words may occur twice in a caption; 0 allows it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_length < self.max_length:
            raise ConfigError(
                f"min_length ({self.min_length}) must be at least 0 and below max_length ({self.max_length})"
            )


@dataclass(frozen=True)
class Decoded:
    """Captions as tokens int64 (N, T): no `<START>`, `<END>` included, then `<NULL>` up to the longest one's length.

    `log_probs` float32 (N,) are the model's own log-probabilities of each caption, summed over its tokens.
    """

    tokens: Tensor
    log_probs: Tensor


DEFAULT_LIMITS = Limits()


def greedy(model: CaptioningTransformer, features: Tensor, limits: Limits = DEFAULT_LIMITS) -> Decoded:
    """The most probable word at each step, for features (N, I) or (N, P, I)."""
    return _write(model, features, limits, lambda scores: scores.argmax(dim=1))


def nucleus(
    model: CaptioningTransformer,
    features: Tensor,
    limits: Limits = DEFAULT_LIMITS,
    *,
    top_p: float = 0.9,
    temperature: float = 1.0,
    generator: torch.Generator,
) -> Decoded:
    """Each word drawn from the smallest set of words whose probabilities sum to `top_p` or more.

    `generator` decides every draw: one number a caption and step, whatever the model's device.
    """
    Bounds(above=0, most=1).check("top_p", top_p)
    # Beyond, the words are the greedy ones or any, and numbers may overflow.
    Bounds(0.01, 100).check("temperature", temperature)

    def choose(scores_RV: Tensor) -> Tensor:
        probs, words = (scores_RV / temperature).softmax(dim=1).sort(dim=1, descending=True, stable=True)
        before = probs.cumsum(dim=1) - probs
        kept = probs.masked_fill(before >= top_p, 0.0).cumsum(dim=1)
        draws = torch.rand(len(probs), 1, generator=generator, device=generator.device).to(probs)
        # The first word whose cumulative probability exceeds the draw; rounding must not lead past the last one kept.
        place = (kept <= draws * kept[:, -1:]).sum(dim=1, keepdim=True)
        last = (before < top_p).sum(dim=1, keepdim=True) - 1
        place = torch.minimum(place, last).clamp(min=0)  # a damaged network has no probable word, and `last` is -1
        return words.gather(1, place)[:, 0]

    return _write(model, features, limits, choose)


@torch.no_grad()
def beam_search(
    model: CaptioningTransformer,
    features: Tensor,
    limits: Limits = DEFAULT_LIMITS,
    *,
    beams: int = 3,
    length_penalty: float = 1.0,
) -> Decoded:
    """The best caption found with `beams` unfinished captions an image kept at each step.

    Captions that have ended are compared by log-probability divided by length ** `length_penalty`; an image is done
    when `beams` of its captions have ended, or none can go on. One beam gives what `greedy` gives.
    """
    Bounds().check("beams", beams)
    Bounds(-10, 10).check("length_penalty", length_penalty)
    start, end, banned = _special_words(model, limits)
    with evaluating(model):
        cache = model.start(features)
        search = _Beams(len(features), beams, limits.max_length, end, model.null_index, length_penalty, features.device)
        words = torch.full((len(features) * beams,), start, device=features.device)
        for step in range(limits.max_length):
            if bool(search.done.all()):
                break
            log_probs = model.step(words, cache).float().log_softmax(dim=1)
            log_probs = log_probs.masked_fill(_forbidden(search.prefixes(), limits, end, banned, model), -torch.inf)
            rows = search.advance(log_probs, last=step + 1 == limits.max_length)
            if beams > 1:
                cache.reorder(rows)
            words = search.prefixes()[:, -1]
    return search.best()


class _Beams:
    """The state of a beam search: `live` captions that go on, and a pool of those that have ended."""

    def __init__(
        self,
        num_images: int,
        beams: int,
        max_length: int,
        end: int,
        null: int,
        length_penalty: float,
        device: torch.device,
    ) -> None:
        self.beams, self.max_length, self.end, self.null = beams, max_length, end, null
        self.length_penalty = length_penalty
        self.words_NBT = torch.empty(num_images, beams, 0, dtype=torch.int64, device=device)
        self.sums_NB = torch.full((num_images, beams), -torch.inf, device=device)
        self.sums_NB[:, 0] = 0.0  # all beams are the same at first: one of them counts
        self.pool_words_NBL = torch.full((num_images, beams, max_length), null, device=device)
        self.pool_scores_NB = torch.full((num_images, beams), -torch.inf, device=device)
        self.pool_sums_NB = torch.full((num_images, beams), -torch.inf, device=device)
        self.ended = torch.zeros(num_images, dtype=torch.int64, device=device)
        self.done = torch.zeros(num_images, dtype=torch.bool, device=device)

    def prefixes(self) -> Tensor:
        """The live captions, int64 (N * B, T)."""
        return self.words_NBT.flatten(0, 1)

    def advance(self, log_probs: Tensor, *, last: bool) -> Tensor:
        """Go on by one word, given log-probabilities (N * B, V); returns which caption each new one continues."""
        N, B, V = len(self.done), self.beams, log_probs.shape[1]
        totals = (self.sums_NB[:, :, None] + log_probs.view(N, B, V)).flatten(1)
        # At most B of the 2 B best end, one a beam, so that B remain to go on.
        sums, places = totals.topk(min(2 * B, B * V), dim=1)
        parents, words = places // V, places % V
        extended = torch.cat([self._continued(parents), words[:, :, None]], dim=2)
        ends = words == self.end

        among_best = torch.arange(sums.shape[1], device=sums.device) < B
        self._pool(extended, sums, ends & among_best)
        live_sums, chosen = sums.masked_fill(ends, -torch.inf).topk(B, dim=1)
        self.words_NBT = extended.gather(1, chosen[:, :, None].expand(-1, -1, extended.shape[2]))
        self.sums_NB = live_sums
        self.done |= (self.ended >= B) | ~live_sums.isfinite().any(dim=1)
        if last:
            self._pool(self.words_NBT, live_sums, torch.ones_like(live_sums, dtype=torch.bool))
            self.done.fill_(True)
        first_rows = torch.arange(N, device=sums.device)[:, None] * B
        return (first_rows + parents.gather(1, chosen)).flatten()

    def best(self) -> Decoded:
        """The best ended caption of each image: the pool is in order, best first."""
        tokens = self.pool_words_NBL[:, 0]
        longest = int((tokens != self.null).sum(dim=1).max()) if len(tokens) else 0
        return Decoded(tokens[:, :longest], self.pool_sums_NB[:, 0])

    def _continued(self, parents: Tensor) -> Tensor:
        return self.words_NBT.gather(1, parents[:, :, None].expand(-1, -1, self.words_NBT.shape[2]))

    def _pool(self, words_NKT: Tensor, sums_NK: Tensor, which_NK: Tensor) -> None:
        """Add some captions of the images that are not done, and keep the B best."""
        which_NK = which_NK & sums_NK.isfinite() & ~self.done[:, None]
        length = words_NKT.shape[2]
        scores = (sums_NK / length**self.length_penalty).masked_fill(~which_NK, -torch.inf)
        padded = torch.nn.functional.pad(words_NKT, (0, self.max_length - length), value=self.null)
        self.pool_scores_NB, order = torch.cat([self.pool_scores_NB, scores], dim=1).topk(self.beams, dim=1)
        self.pool_sums_NB = torch.cat([self.pool_sums_NB, sums_NK], dim=1).gather(1, order)
        every = torch.cat([self.pool_words_NBL, padded], dim=1)
        self.pool_words_NBL = every.gather(1, order[:, :, None].expand(-1, -1, self.max_length))
        self.ended += which_NK.sum(dim=1)


@torch.no_grad()
def _write(
    model: CaptioningTransformer, features: Tensor, limits: Limits, choose: Callable[[Tensor], Tensor]
) -> Decoded:
    """One caption an image; `choose` picks words (N,) by scores (N, V), in which what is forbidden is -inf."""
    start, end, banned = _special_words(model, limits)
    N, device = len(features), features.device
    words = torch.full((N,), start, device=device)
    tokens = torch.empty((N, 0), dtype=torch.int64, device=device)
    log_probs = torch.zeros(N, device=device)
    ended = torch.zeros(N, dtype=torch.bool, device=device)
    with evaluating(model):
        cache = model.start(features)
        while tokens.shape[1] < limits.max_length and not bool(ended.all()):
            scores = model.step(words, cache).float()
            chosen = choose(scores.masked_fill(_forbidden(tokens, limits, end, banned, model), -torch.inf))
            gained = scores.log_softmax(dim=1).gather(1, chosen[:, None])[:, 0]
            log_probs += gained.masked_fill(ended, 0.0)
            words = chosen.masked_fill(ended, model.null_index)
            tokens = torch.cat([tokens, words[:, None]], dim=1)
            ended |= words == end
    return Decoded(tokens, log_probs)


def _special_words(model: CaptioningTransformer, limits: Limits) -> tuple[int, int, list[int]]:
    """`<START>`, `<END>`, and all that is never written. ConfigError when this model cannot write such captions."""
    if limits.max_length > model.max_length:
        raise ConfigError(f"max_length is {limits.max_length}, and this model knows {model.max_length} positions only")
    if model.start_index is None or model.end_index is None:
        raise ConfigError("the vocabulary of this model has no <START> or no <END>, so it cannot write captions")
    unwritten = (model.null_index, model.start_index, model.unknown_index)
    return model.start_index, model.end_index, [index for index in unwritten if index is not None]


def _forbidden(
    prefixes_RT: Tensor, limits: Limits, end: int, banned: list[int], model: CaptioningTransformer
) -> Tensor:
    """bool (R, V): words that must not come next. Where nothing else is left, `<END>` is allowed."""
    R, T = prefixes_RT.shape
    forbidden = torch.zeros(R, model.vocab_size, dtype=torch.bool, device=prefixes_RT.device)
    for word in [*banned, end] if limits.min_length > T else banned:
        forbidden[:, word] = True
    size = limits.no_repeat_ngram
    if 0 < size <= T:
        ngrams = prefixes_RT.unfold(1, size, 1)  # (R, T - size + 1, size)
        same_start = (ngrams[:, :, :-1] == prefixes_RT[:, None, T - size + 1 :]).all(dim=2)
        rows, places = same_start.nonzero(as_tuple=True)
        forbidden[rows, ngrams[rows, places, -1]] = True
    forbidden[:, end] &= ~forbidden.all(dim=1)
    return forbidden
