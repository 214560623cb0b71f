"""The notebook's own import statements, and the signatures its calls rely on."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import icv83551.captioning_solver_transformer
import icv83551.classification_solver_vit
import icv83551.classifiers.transformer
import icv83551.coco_utils
import icv83551.transformer_layers as layers
import opsin.captioning.model
import opsin.nn.attention
import opsin.nn.vision_transformer

IMPORTS = """
from icv83551.gradient_check import eval_numerical_gradient, \\
    eval_numerical_gradient_array
from icv83551.transformer_layers import *
from icv83551.captioning_solver_transformer import CaptioningSolverTransformer
from icv83551.classifiers.transformer import CaptioningTransformer
from icv83551.coco_utils import load_coco_data, sample_coco_minibatch, \\
    decode_captions
from icv83551.image_utils import image_from_url
from icv83551.transformer_layers import PatchEmbedding
from icv83551.transformer_layers import TransformerEncoderLayer
from icv83551.classifiers.transformer import VisionTransformer
from icv83551.classification_solver_vit import ClassificationSolverViT
from icv83551.emoji_dataset import EmojiDataset
from icv83551.gaussian_diffusion import GaussianDiffusion
from icv83551.unet import Unet, ResnetBlock, Downsample, Upsample
from icv83551.ddpm_trainer import Trainer
from icv83551.emoji_dataset import ClipEmbed
"""


def test_notebook_imports() -> None:
    names: dict[str, Any] = {}
    exec(IMPORTS, names)
    assert names["torch"] is torch
    assert names["nn"] is torch.nn
    # The cells of sections 4, 5 and 7 use these without another import.
    assert {"MultiHeadAttention", "PositionalEncoding", "TransformerDecoderLayer", "FeedForwardNetwork"} <= set(names)


def test_paths_lead_to_the_library() -> None:
    assert layers.MultiHeadAttention is opsin.nn.attention.MultiHeadAttention
    assert icv83551.classifiers.transformer.CaptioningTransformer is opsin.captioning.model.CaptioningTransformer
    assert icv83551.classifiers.transformer.VisionTransformer is opsin.nn.vision_transformer.VisionTransformer


NO_DEFAULT = inspect.Parameter.empty
LAYER = [("input_dim", NO_DEFAULT), ("num_heads", NO_DEFAULT), ("dim_feedforward", 2048), ("dropout", 0.1)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (layers.PositionalEncoding, [("embed_dim", NO_DEFAULT), ("dropout", 0.1), ("max_len", 5000)]),
        (layers.MultiHeadAttention, [("embed_dim", NO_DEFAULT), ("num_heads", NO_DEFAULT), ("dropout", 0.1)]),
        (layers.FeedForwardNetwork, [("embed_dim", NO_DEFAULT), ("ffn_dim", NO_DEFAULT), ("dropout", 0.1)]),
        (layers.TransformerDecoderLayer, LAYER),
        (layers.TransformerEncoderLayer, LAYER),
        (
            layers.PatchEmbedding,
            [("img_size", NO_DEFAULT), ("patch_size", NO_DEFAULT), ("in_channels", 3), ("embed_dim", 128)],
        ),
        (
            icv83551.classifiers.transformer.VisionTransformer,
            [("img_size", 32), ("patch_size", 8), ("in_channels", 3), ("embed_dim", 128), ("num_layers", 6)]
            + [("num_heads", 4), ("dim_feedforward", 256), ("num_classes", 10), ("dropout", 0.1)],
        ),
        (
            icv83551.classifiers.transformer.CaptioningTransformer,
            [("word_to_idx", NO_DEFAULT), ("input_dim", NO_DEFAULT), ("wordvec_dim", NO_DEFAULT)]
            + [("num_heads", 4), ("num_layers", 2), ("max_length", 50)],
        ),
        (
            icv83551.captioning_solver_transformer.CaptioningSolverTransformer,
            [("model", NO_DEFAULT), ("data", NO_DEFAULT), ("idx_to_word", NO_DEFAULT)],
        ),
        (
            icv83551.coco_utils.load_coco_data,
            [("base_dir", icv83551.coco_utils.BASE_DIR), ("max_train", None), ("pca_features", True)],
        ),
        (
            icv83551.coco_utils.sample_coco_minibatch,
            [("data", NO_DEFAULT), ("batch_size", 100), ("split", "train")],
        ),
        (icv83551.coco_utils.decode_captions, [("captions", NO_DEFAULT), ("idx_to_word", NO_DEFAULT)]),
        (
            icv83551.classification_solver_vit.ClassificationSolverViT,
            [("train_data", NO_DEFAULT), ("test_data", NO_DEFAULT), ("model", NO_DEFAULT)],
        ),
    ],
)
def test_positional_parameters(function: Any, expected: list[tuple[str, Any]]) -> None:
    parameters = inspect.signature(function).parameters.values()
    positional = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == expected


def test_solver_options() -> None:
    parameters = inspect.signature(icv83551.classification_solver_vit.ClassificationSolverViT).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert options == {"learning_rate": 1e-4, "weight_decay": 0.0, "batch_size": 64, "num_epochs": 2}
    parameters = inspect.signature(
        icv83551.captioning_solver_transformer.CaptioningSolverTransformer
    ).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert options == {
        "learning_rate": 0.001,
        "batch_size": 100,
        "num_epochs": 10,
        "print_every": 10,
        "verbose": True,
    }
