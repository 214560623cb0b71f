"""Greedy, beam and nucleus decoding against plain, slow versions of themselves."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from opsin.captioning.decoding import Decoded, Limits, beam_search, greedy, nucleus
from opsin.captioning.model import CaptioningTransformer
from opsin.errors import ConfigError

from .conftest import make_model

NULL, START, END, UNK = range(4)


def draw_features(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, 6, generator=torch.Generator().manual_seed(3))


def captions_of(decoded: Decoded) -> list[list[int]]:
    """Tokens of each caption, without the padding, which must be at the end only."""
    rows = []
    for row in decoded.tokens.tolist():
        caption = row[: row.index(NULL)] if NULL in row else row
        assert set(row[len(caption) :]) <= {NULL}
        rows.append(caption)
    return rows


def repeats(caption: list[int], size: int) -> bool:
    ngrams = [tuple(caption[place : place + size]) for place in range(len(caption) - size + 1)]
    return len(set(ngrams)) < len(ngrams)


def next_log_probs(model: CaptioningTransformer, features: Tensor, words: list[int]) -> Tensor:
    with torch.no_grad():
        return model(features[None], torch.tensor([[START, *words]]))[0, -1].log_softmax(dim=0)


def plain_greedy(model: CaptioningTransformer, features: Tensor, limits: Limits) -> tuple[list[int], float]:
    """One image, the whole caption again at each word, every forbidden word tried and dropped."""
    words: list[int] = []
    total = 0.0
    while len(words) < limits.max_length and END not in words:
        log_probs = next_log_probs(model, features, words)
        order = log_probs.argsort(descending=True).tolist()
        allowed = [word for word in order if word not in (NULL, START, UNK)]
        if len(words) < limits.min_length:
            allowed.remove(END)
        size = limits.no_repeat_ngram
        allowed = [word for word in allowed if not (size and repeats([*words, word], size))]
        word = allowed[0] if allowed else END
        total += float(log_probs[word])
        words.append(word)
    return words, total


LIMITS = [
    Limits(max_length=12),
    Limits(min_length=0, max_length=3),
    Limits(min_length=6, max_length=20),
    Limits(max_length=20, no_repeat_ngram=1),
    Limits(min_length=3, max_length=20, no_repeat_ngram=2),
    Limits(max_length=20, no_repeat_ngram=3),
]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("shape", [(), (5,)])
def test_greedy_equals_the_plain_version(limits: Limits, shape: tuple[int, ...]) -> None:
    model = make_model()
    features = draw_features(12, *shape)
    decoded = greedy(model, features, limits)
    plain = [plain_greedy(model, row, limits) for row in features]
    assert captions_of(decoded) == [words for words, _ in plain]
    torch.testing.assert_close(decoded.log_probs, torch.tensor([total for _, total in plain]), rtol=1e-4, atol=1e-4)


def test_models_of_these_tests_write_different_captions_that_end() -> None:
    captions = captions_of(greedy(make_model(), draw_features(30), Limits(max_length=20)))
    assert len({tuple(caption) for caption in captions}) > 10
    assert len({len(caption) for caption in captions}) > 3
    assert sum(caption[-1] == END for caption in captions) > 10


@pytest.mark.parametrize("limits", LIMITS)
def test_one_beam_equals_greedy(limits: Limits) -> None:
    model = make_model()
    features = draw_features(30, 5)
    one, plain = beam_search(model, features, limits, beams=1), greedy(model, features, limits)
    assert captions_of(one) == captions_of(plain)
    torch.testing.assert_close(one.log_probs, plain.log_probs, rtol=1e-4, atol=1e-4)


def every_caption(words: list[int], limits: Limits) -> list[list[int]]:
    """All captions within the limits, those that are cut included."""
    captions = []
    for length in range(limits.max_length + 1):
        for caption in itertools.product(words, repeat=length):
            if limits.no_repeat_ngram and repeats(list(caption), limits.no_repeat_ngram):
                continue
            if length == limits.max_length:
                captions.append(list(caption))
            elif length >= limits.min_length:
                captions.append([*caption, END])
    return captions


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 2.0])
@pytest.mark.parametrize(
    "limits", [Limits(max_length=4), Limits(min_length=0, max_length=3), Limits(max_length=4, no_repeat_ngram=2)]
)
def test_wide_beam_equals_exhaustive_search(length_penalty: float, limits: Limits) -> None:
    model = make_model(words=3, seed=2)
    features = draw_features(6, 2)
    captions = every_caption([4, 5, 6], limits)
    found = beam_search(model, features, limits, beams=len(captions), length_penalty=length_penalty)
    longest = max(map(len, captions))
    tokens = torch.tensor([caption + [NULL] * (longest - len(caption)) for caption in captions])
    inputs = torch.cat([torch.full((len(tokens), 1), START), tokens[:, :-1]], dim=1)
    lengths = torch.tensor([len(caption) for caption in captions])
    for row, caption in enumerate(captions_of(found)):
        with torch.no_grad():
            log_probs = model(features[row].expand(len(tokens), -1, -1), inputs).log_softmax(dim=2)
        totals = (log_probs.gather(2, tokens[:, :, None])[:, :, 0] * (tokens != NULL)).sum(dim=1)
        best = int((totals / lengths**length_penalty).argmax())
        assert caption == captions[best]
        torch.testing.assert_close(found.log_probs[row], totals[best], rtol=1e-4, atol=1e-4)


def plain_beam_search(
    model: CaptioningTransformer, features: Tensor, limits: Limits, beams: int, length_penalty: float
) -> list[int]:
    """One image, in lists: the 2 B best continuations, the B first of which may end, and B that go on."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, limits.max_length + 1):
        continued = []
        for total, words in live:
            log_probs = next_log_probs(model, features, words)
            for word in range(len(log_probs)):
                if word not in (NULL, START, UNK) and not (word == END and len(words) < limits.min_length):
                    continued.append((total + float(log_probs[word]), [*words, word]))
        continued.sort(reverse=True)
        ended += [(t / length**length_penalty, words) for t, words in continued[:beams] if words[-1] == END]
        live = [pair for pair in continued if pair[1][-1] != END][:beams]
        if len(ended) >= beams:
            return max(ended)[1]
    ended += [(total / limits.max_length**length_penalty, words) for total, words in live]
    return max(ended)[1]


@pytest.mark.parametrize(("beams", "length_penalty"), [(2, 1.0), (3, 0.0), (5, 1.5)])
def test_beam_search_equals_the_plain_version(beams: int, length_penalty: float) -> None:
    model = make_model(seed=1)
    features = draw_features(12, 3)
    limits = Limits(min_length=2, max_length=10)
    found = captions_of(beam_search(model, features, limits, beams=beams, length_penalty=length_penalty))
    assert found == [plain_beam_search(model, row, limits, beams, length_penalty) for row in features]


def test_captions_of_a_batch_do_not_depend_on_each_other() -> None:
    model = make_model()
    features = draw_features(20, 5)
    together = captions_of(beam_search(model, features, beams=4, limits=Limits(max_length=15)))
    alone = [captions_of(beam_search(model, row[None], beams=4, limits=Limits(max_length=15)))[0] for row in features]
    assert together == alone


def test_wider_beams_find_more_probable_captions() -> None:
    model = make_model()
    features = draw_features(30)
    limits = Limits(max_length=10)
    narrow = greedy(model, features, limits).log_probs
    wide = beam_search(model, features, limits, beams=8, length_penalty=0.0).log_probs
    assert float((wide - narrow).mean()) > 0.1


def test_longer_captions_are_preferred_with_a_larger_penalty() -> None:
    model = make_model()
    features = draw_features(40)
    limits = Limits(max_length=20)
    lengths = [
        sum(map(len, captions_of(beam_search(model, features, limits, beams=6, length_penalty=penalty))))
        for penalty in (0.0, 3.0)
    ]
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("decoder", ["greedy", "beam", "nucleus"])
def test_limits_hold(decoder: str, limits: Limits) -> None:
    model = make_model(words=5)
    features = draw_features(40)
    if decoder == "greedy":
        decoded = greedy(model, features, limits)
    elif decoder == "beam":
        decoded = beam_search(model, features, limits, beams=3)
    else:
        decoded = nucleus(model, features, limits, temperature=2.0, generator=torch.Generator().manual_seed(0))
    for caption in captions_of(decoded):
        words = [word for word in caption if word != END]
        assert not {NULL, START, UNK} & set(caption)
        assert len(caption) <= limits.max_length
        # Blocking comes first: with five words and none twice, a caption of six words does not exist.
        assert len(words) >= limits.min_length
        assert END not in caption[:-1]
        assert not limits.no_repeat_ngram or not repeats(caption, limits.no_repeat_ngram)


def test_caption_ends_when_blocking_leaves_no_word() -> None:
    model = make_model(words=3)
    for decoded in (
        greedy(model, draw_features(5), Limits(min_length=10, max_length=20, no_repeat_ngram=1)),
        beam_search(model, draw_features(5), Limits(min_length=10, max_length=20, no_repeat_ngram=1), beams=3),
    ):
        assert [sorted(caption[:-1]) for caption in captions_of(decoded)] == [[4, 5, 6]] * 5
        assert decoded.tokens[:, -1].tolist() == [END] * 5


def test_decoding_stops_when_every_caption_has_ended() -> None:
    model = make_model()
    with torch.no_grad():
        assert model.output is not None
        model.output.bias[END] += 100.0
    steps: list[int] = []
    hook = model.transformer.layers[0].ffn.register_forward_hook(lambda *_: steps.append(1))  # type: ignore[union-attr]
    assert captions_of(greedy(model, draw_features(4), Limits(min_length=2))) == captions_of(
        beam_search(model, draw_features(4), Limits(min_length=2), beams=1)
    )
    hook.remove()
    assert len(steps) == 6
    assert greedy(model, draw_features(4), Limits(min_length=2)).tokens.shape == (4, 3)


def test_nucleus_draws_from_the_smallest_sufficient_set() -> None:
    model = make_model()
    features = draw_features(1).expand(4000, -1)
    log_probs = next_log_probs(model, features[0], [])
    log_probs[[NULL, START, END, UNK]] = -torch.inf
    probs = (log_probs / 1.5).softmax(dim=0)
    order = probs.argsort(descending=True)
    size = int((probs[order].cumsum(dim=0) < 0.8).sum()) + 1
    kept = probs[order[:size]] / probs[order[:size]].sum()

    decoded = nucleus(
        model, features, Limits(max_length=2), top_p=0.8, temperature=1.5, generator=torch.Generator().manual_seed(0)
    )
    counts = Counter(decoded.tokens[:, 0].tolist())
    assert set(counts) == set(order[:size].tolist())
    shares = torch.tensor([counts[word] / 4000 for word in order[:size].tolist()])
    assert float((shares - kept).abs().max()) < 0.03


def test_nucleus_is_decided_by_the_generator() -> None:
    model = make_model()
    features = draw_features(20)
    first, again, other = (
        captions_of(
            nucleus(model, features, generator=torch.Generator().manual_seed(seed), limits=Limits(max_length=9))
        )
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_tiny_nucleus_is_greedy() -> None:
    model = make_model()
    features = draw_features(30)
    limits = Limits(max_length=12)
    drawn = nucleus(model, features, limits, top_p=1e-6, generator=torch.Generator().manual_seed(0))
    assert captions_of(drawn) == captions_of(greedy(model, features, limits))


def test_decoders_evaluate_and_restore_the_mode() -> None:
    model = make_model(dropout=0.5)
    features = draw_features(20)
    limits = Limits(max_length=9)
    expected = captions_of(greedy(model, features, limits)), captions_of(beam_search(model, features, limits))
    model.train()
    assert (captions_of(greedy(model, features, limits)), captions_of(beam_search(model, features, limits))) == expected
    assert model.training


def test_no_images_give_no_captions() -> None:
    for decoded in (greedy(make_model(), draw_features(0)), beam_search(make_model(), draw_features(0))):
        assert len(decoded.tokens) == len(decoded.log_probs) == 0


def test_impossible_settings_are_refused() -> None:
    model, features = make_model(), draw_features(1)
    generator = torch.Generator()
    with pytest.raises(ConfigError, match="min_length"):
        Limits(min_length=5, max_length=5)
    with pytest.raises(ConfigError, match="no_repeat_ngram"):
        Limits(no_repeat_ngram=-1)
    with pytest.raises(ConfigError, match="beams"):
        beam_search(model, features, beams=0)
    with pytest.raises(ConfigError, match="top_p"):
        nucleus(model, features, top_p=0.0, generator=generator)
    for number in (0.0, 1e-40, math.inf, math.nan):
        with pytest.raises(ConfigError, match="temperature"):
            nucleus(model, features, temperature=number, generator=generator)
    for number in (1000.0, -math.inf, math.nan):
        with pytest.raises(ConfigError, match="length_penalty"):
            beam_search(model, features, length_penalty=number)
    with pytest.raises(ConfigError, match="30 positions"):
        greedy(model, features, Limits(max_length=31))
    course = CaptioningTransformer({"<NULL>": 0, "cat": 1}, 6, 16)
    with pytest.raises(ConfigError, match="<START>"):
        greedy(course, features)
