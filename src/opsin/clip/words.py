"""What a text tower of words learns from before it sees an image: which words occur together, and which name things.

Dimensions: V tokens, D width of their vectors, B images of a bank, T texts, C classes of an image encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from opsin.clip.model import DualEncoder
from opsin.data.tokenizer import START_INDEX, BpeTokenizer
from opsin.encoders.imagenet import ImagenetEncoder
from opsin.encoders.imagenet_classes import class_definitions, class_groups, class_synonyms

CONTEXT_POWER = 0.75
"""Smooths the frequencies of contexts (Levy, Goldberg and Dagan 2015, section 3.1)."""
PROTOTYPE = 0.8
"""The probability of its class that a prototype has."""
DEFINITION_WEIGHT, GROUP_WEIGHT = 0.5, 3.0
"""How often definitions of classes and names of groups are drawn; the names of one class together are drawn once."""
TEXTS_A_STEP = 128
DISTILLATION = 0.25


def word_vectors(tokenizer: BpeTokenizer, texts: Sequence[str], width: int) -> Tensor:
    """float32 (V, D) for the tokens of a tokenizer, alike where they occur in texts with the same others: the singular
    vectors of their positive pointwise mutual information ("Neural Word Embedding as Implicit Matrix Factorization",
    Levy and Goldberg 2014), on average of length one. A token that occurs nowhere gets zeros."""
    V = len(tokenizer)
    together = np.zeros((V, V), dtype=np.float32)
    for row in tokenizer.encode(texts).numpy():
        own = np.unique(row[row > START_INDEX])
        together[np.ix_(own, own)] += 1
    np.fill_diagonal(together, 0)
    counts = together.sum(axis=1)
    context = counts**CONTEXT_POWER
    expected = np.outer(counts, context / max(context.sum(), 1))
    ratio = np.divide(together, expected, out=np.ones_like(together), where=expected > 0)
    information = np.log(np.maximum(ratio, 1, out=ratio), out=ratio)
    left, values, _ = torch.svd_lowrank(torch.from_numpy(information), q=min(width, V), niter=2)
    vectors = torch.zeros(V, width)
    occurs = torch.from_numpy(counts > 0)
    vectors[occurs, : len(values)] = (left * values.sqrt())[occurs]
    return vectors / vectors[occurs].norm(dim=1).mean()


@dataclass(frozen=True)
class ClassTeacher:
    """Teaches the names of classes that an image encoder knows: texts, and how well each fits every image of a bank.

    The bank are training images, with the probabilities that the encoder gives to its classes, and one prototype for
    each class, which is a made-up vector: that of an average image moved along the class's own weights until the
    encoder gives the class the probability `PROTOTYPE`.
    """

    texts: tuple[str, ...]
    tokens: Tensor
    """int64 (T, tokens of the longest text)."""
    weights: Tensor
    """(T,): how often a text is drawn."""
    fits: Tensor
    """float32 (T, B): shares of a text among the images of the bank, each row summing to one."""
    bank: Tensor
    """float32 (B, D): vectors of the encoder."""
    class_tokens: Tensor
    """int64 (C, …): the first name of each class."""
    encoder: ImagenetEncoder

    def loss(self, model: DualEncoder, vectors: Tensor, features: Tensor, generator: torch.Generator) -> Tensor:
        """What is added to the loss of a batch of images with these vectors (N, D) and features (N, E).

        The cross-entropy of some texts' images among those of the bank, and, with the weight `DISTILLATION`, that of
        the classes' names for the images of the batch with the encoder's own probabilities (Hinton et al. 2015).
        """
        device = vectors.device
        drawn = torch.multinomial(self.weights, min(TEXTS_A_STEP, len(self.texts)), generator=generator)
        images, texts, scale = model(self.bank.to(device), self.tokens[drawn].to(device))
        found = scale * F.normalize(texts.float()) @ F.normalize(images.float()).T
        names = F.normalize(model.encode_text(self.class_tokens.to(device)).float())
        named = scale * F.normalize(features.float()) @ names.T
        probabilities = self.encoder.scores_of(vectors).softmax(dim=1).to(device)
        return F.cross_entropy(found, self.fits[drawn].to(device)) + DISTILLATION * F.cross_entropy(
            named, probabilities
        )


def class_texts() -> list[tuple[str, tuple[int, ...], float]]:
    """Names and definitions of the classes of ImageNet and names of their groups, with the classes that each stands for
    and its weight."""
    texts = [(name, (index,), 1 / len(names)) for index, names in enumerate(class_synonyms()) for name in names]
    texts += [(definition, (index,), DEFINITION_WEIGHT) for index, definition in enumerate(class_definitions())]
    return texts + [(name, classes, GROUP_WEIGHT) for name, classes in class_groups().items()]


def class_teacher(encoder: ImagenetEncoder, tokenizer: BpeTokenizer, vectors: Tensor) -> ClassTeacher:
    """The teacher of the classes of ImageNet; `vectors` float32 (N, D) are those of training images."""
    bank = torch.cat([vectors, prototypes(encoder, vectors.mean(dim=0))])
    probabilities = encoder.scores_of(bank).softmax(dim=1)
    texts, classes, weights = zip(*class_texts(), strict=True)
    fits = torch.stack([probabilities[:, list(own)].sum(dim=1) for own in classes])
    return ClassTeacher(
        texts=texts,
        tokens=tokenizer.encode(texts),
        weights=torch.tensor(weights),
        fits=fits / fits.sum(dim=1, keepdim=True),
        bank=bank,
        class_tokens=tokenizer.encode([names[0] for names in class_synonyms()]),
        encoder=encoder,
    )


def prototypes(encoder: ImagenetEncoder, average: Tensor) -> Tensor:
    """float32 (C, D): for each class the average vector (D,), moved along what the class's weights have beyond those of
    others, by the length at which the class has the probability `PROTOTYPE`. Features are not below zero."""
    weights = encoder.class_weights()
    directions = weights - weights.mean(dim=0)
    low, high = torch.zeros(len(weights), 1), torch.full((len(weights), 1), 64.0)
    for _ in range(30):  # bisection: the probability rises with the length
        middle = (low + high) / 2
        reached = encoder.scores_of((average + middle * directions).relu()).softmax(dim=1).diagonal()[:, None]
        low, high = torch.where(reached < PROTOTYPE, middle, low), torch.where(reached < PROTOTYPE, high, middle)
    return (average + high * directions).relu()
