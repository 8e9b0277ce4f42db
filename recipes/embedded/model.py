"""The embedded LLaVA from its configuration, with weights drawn so that a small one learns fast."""

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

PIXELS, PATCH, WIDTH = 96, 8, 128
SIDE = PIXELS // PATCH


def build(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A fresh model: 144 visual tokens, five vision blocks, six decoder layers, all 128 wide."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=5,
        num_attention_heads=2,  # heads of 64: heads of 32 take twice the time on a CPU
        image_size=PIXELS,
        patch_size=PATCH,
        projection_dim=WIDTH,
        hidden_act="gelu_pytorch_tanh",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=SIDE**2,
        # The first hidden state beside the last but one: the decoder learns where a patch is.
        vision_feature_layer=[0, -2],
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    initialize(model)
    return model


@torch.no_grad()
def initialize(model: LlavaForConditionalGeneration) -> None:
    """Unit-variance layers, quiet residual branches, and a position embedding that is a map."""
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            weight.normal_(std=0.5)
        elif "position_embedding" in name:
            weight.copy_(position_map(weight.shape[1]))
        elif "patch_embedding" in name:
            weight.normal_(std=(3 * PATCH * PATCH) ** -0.5)
        elif "class_embedding" in name:
            weight.normal_(std=0.1)
        elif weight.dim() == 2:
            quiet = name.endswith(
                ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")
            )
            weight.normal_(std=(0.28 if quiet else 0.7) * weight.shape[1] ** -0.5)
    # Tied embeddings of standard deviation 0.5 need a small last norm for reasonable logits.
    model.model.language_model.norm.weight.fill_(0.1)


def position_map(width: int, scale: float = 0.5) -> torch.Tensor:
    """Row and column as straight lines and slow waves in random directions, (1 + SIDE**2, width).

    With random position embeddings the tower forgets where things are; with these, "left of" is
    close to a linear question.
    """
    place = torch.linspace(-1, 1, SIDE)
    waves = [3**0.5 * place]
    for halves in (1, 2, 3, 4):
        waves += [2**0.5 * torch.sin(halves * torch.pi / 2 * place)]
        waves += [2**0.5 * torch.cos(halves * torch.pi / 2 * place)]
    line = torch.stack(waves, dim=1)  # SIDE, basis
    rows = line[:, None].expand(SIDE, SIDE, -1)
    grid = torch.cat([rows, rows.transpose(0, 1)], dim=-1).flatten(0, 1)
    directions = nn.init.orthogonal_(torch.empty(grid.shape[1], width))
    spread = scale * (width / grid.shape[1]) ** 0.5
    return torch.cat([torch.zeros(1, width), spread * grid @ directions])
