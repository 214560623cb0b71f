"""torch's own layers with the weights of ours, without dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from opsin.nn.attention import MultiHeadAttention
from opsin.nn.transformer import TransformerDecoderLayer, TransformerEncoderLayer


def torch_attention(attn: MultiHeadAttention) -> nn.MultiheadAttention:
    peer = nn.MultiheadAttention(attn.proj.in_features, attn.num_heads, batch_first=True)
    peer.load_state_dict(_attention_state(attn))
    return peer


def torch_encoder_layer(layer: TransformerEncoderLayer) -> nn.TransformerEncoderLayer:
    peer = nn.TransformerEncoderLayer(*_sizes(layer), 0.0, "gelu", batch_first=True, norm_first=layer.pre_norm)
    peer.load_state_dict(_named(self_attn=layer.self_attn, norm1=layer.norm_self, norm2=layer.norm_ffn) | _ffn(layer))
    return peer


def torch_decoder_layer(layer: TransformerDecoderLayer) -> nn.TransformerDecoderLayer:
    peer = nn.TransformerDecoderLayer(*_sizes(layer), 0.0, "gelu", batch_first=True, norm_first=layer.pre_norm)
    attentions = _named(self_attn=layer.self_attn, multihead_attn=layer.cross_attn)
    norms = _named(norm1=layer.norm_self, norm2=layer.norm_cross, norm3=layer.norm_ffn)
    peer.load_state_dict(attentions | norms | _ffn(layer))
    return peer


def _attention_state(attn: MultiHeadAttention) -> dict[str, Tensor]:
    projections = (attn.query, attn.key, attn.value)
    return {
        "in_proj_weight": torch.cat([layer.weight for layer in projections]),
        "in_proj_bias": torch.cat([layer.bias for layer in projections]),
        "out_proj.weight": attn.proj.weight,
        "out_proj.bias": attn.proj.bias,
    }


def _named(**modules: nn.Module) -> dict[str, Tensor]:
    states = {
        name: _attention_state(module) if isinstance(module, MultiHeadAttention) else module.state_dict()
        for name, module in modules.items()
    }
    return {f"{name}.{key}": value for name, state in states.items() for key, value in state.items()}


def _ffn(layer: TransformerEncoderLayer | TransformerDecoderLayer) -> dict[str, Tensor]:
    return _named(linear1=layer.ffn.fc1, linear2=layer.ffn.fc2)


def _sizes(layer: TransformerEncoderLayer | TransformerDecoderLayer) -> tuple[int, int, int]:
    return layer.ffn.fc1.in_features, layer.self_attn.num_heads, layer.ffn.fc1.out_features
