"""The same computation as the Hugging Face forward, arranged for many questions about one image.

The K questions of a scene share the keys and values of the prefix (the image and "USER:"); no
question sees another. This halves the attention and removes padding against one packed sequence.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

MIDDLE = 2  # the layer after which a word should know where the thing it names is


def see(model: LlavaForConditionalGeneration, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states 0 and -2 of all patches, (B, P, D), and the last class token, (B, D)."""
    tower = model.model.vision_tower
    x = tower.pre_layrnorm(tower.embeddings(pixels))
    first = x
    *blocks, last = tower.encoder.layers
    for block in blocks:
        x = x + _look(block, x, x.shape[1])
        x = x + block.mlp(block.layer_norm2(x))
    # The decoder reads the state before the last block: there only the class token goes on.
    token = x[:, :1] + _look(last, x, 1)
    token = token + last.mlp(last.layer_norm2(token))
    return first[:, 1:], x[:, 1:], token[:, 0]


def _look(block: nn.Module, x: Tensor, queries: int) -> Tensor:
    """Self-attention of the first tokens over all."""
    attention, normed = block.self_attn, block.layer_norm1(x)
    q = _heads(attention.q_proj(normed[:, :queries]), attention.num_heads)
    k = _heads(attention.k_proj(normed), attention.num_heads)
    v = _heads(attention.v_proj(normed), attention.num_heads)
    return attention.out_proj(_joined(F.scaled_dot_product_attention(q, k, v)))


def read(
    model: LlavaForConditionalGeneration, first: Tensor, late: Tensor, start: Tensor, ids: Tensor
):
    """Last and middle hidden states (B, K, T, D) of the questions `ids` (B, K, T)."""
    decoder = model.model.language_model
    image = model.model.multi_modal_projector(torch.cat([first, late], dim=-1))
    B, K, T = ids.shape
    opening = decoder.embed_tokens(start).expand(B, -1, -1)
    prefix = torch.cat([opening, image], dim=1)
    P = prefix.shape[1]
    x = torch.cat([prefix, decoder.embed_tokens(ids).flatten(1, 2)], dim=1)
    places = torch.cat([torch.arange(P), P + torch.arange(T).repeat(K)])
    cos, sin = decoder.rotary_emb(x, places[None])
    cos, sin = cos[:, None], sin[:, None]
    for number, layer in enumerate(decoder.layers):
        # After the last layer nobody reads the prefix.
        keep = P if number == len(decoder.layers) - 1 else 0
        x = x[:, keep:] + _attend(layer, x, P, K, keep, cos, sin)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if number == MIDDLE:
            middle = x[:, P:].unflatten(1, (K, T))
    return decoder.norm(x).unflatten(1, (K, T)), middle


def _attend(layer: nn.Module, x: Tensor, P: int, K: int, keep: int, cos: Tensor, sin: Tensor):
    attention, normed = layer.self_attn, layer.input_layernorm(x)
    heads = x.shape[-1] // attention.head_dim
    q = _turned(_heads(attention.q_proj(normed), heads), cos, sin) * attention.scaling
    k = _turned(_heads(attention.k_proj(normed), heads), cos, sin)
    v = _heads(attention.v_proj(normed), heads)
    asked = _ask(q[:, :, P:], k, v, P, K)
    if keep:
        return attention.o_proj(_joined(asked))
    looked = _weighted(q[:, :, :P] @ k[:, :, :P].mT, v[:, :, :P])
    return attention.o_proj(_joined(torch.cat([looked, asked], dim=2)))


def _ask(q: Tensor, k: Tensor, v: Tensor, P: int, K: int) -> Tensor:
    """Every question attends to the prefix and, causally, to itself."""
    own_q, own_k, own_v = (t.unflatten(2, (K, -1)) for t in (q, k[:, :, P:], v[:, :, P:]))
    T = own_q.shape[3]
    past = torch.ones(T, T, dtype=torch.bool).tril()
    own = (own_q @ own_k.mT).masked_fill(~past, -1e9).flatten(2, 3)
    scores = torch.cat([q @ k[:, :, :P].mT, own], dim=-1).softmax(dim=-1)
    to_prefix, to_own = scores.split([P, T], dim=-1)
    return to_prefix @ v[:, :, :P] + (to_own.unflatten(2, (K, T)) @ own_v).flatten(2, 3)


def _weighted(scores: Tensor, v: Tensor) -> Tensor:
    past = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return scores.masked_fill(~past, -1e9).softmax(dim=-1) @ v


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
