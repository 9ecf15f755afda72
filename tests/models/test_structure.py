"""Which models' parts are found, and that what has no single down-projection is refused in one line."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from safeedit.errors import ModelError
from safeedit.models.structure import find_decoder

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    # A shared expert runs beside, or after, the others.
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
OTHERS = {
    # Attention and MLP side by side.
    "falcon": ({"parallel_attn": True, "new_decoder_architecture": False}, "mlp.dense_4h_to_h"),
    "cohere": ({}, "mlp.down_proj"),
    "phi": ({"num_key_value_heads": 4}, "mlp.fc2"),
    # Norms behind the MLP.
    "olmo2": ({}, "mlp.down_proj"),
    # Filters of convolutions, whose weights have three dimensions too.
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "feed_forward.w2"),
    "falcon_h1": ({"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8}, "feed_forward.down_proj"),
}


def small(family, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SMALL, **options})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", EXPERTS)
def test_blocks_of_experts_are_refused(family):
    model = small(family, **EXPERTS[family])
    with pytest.raises(ModelError, match="block 0: it is a block of experts") as caught:
        find_decoder(model)
    assert "\n" not in str(caught.value)


def test_experts_in_some_blocks_are_refused():
    model = small("qwen3_moe", **EXPERTS["qwen3_moe"], mlp_only_layers=[0])
    with pytest.raises(ModelError, match="block 1: it is a block of experts"):
        find_decoder(model)


@pytest.mark.parametrize("family", OTHERS)
def test_blocks_of_other_shapes_have_their_down_projection(family):
    options, name = OTHERS[family]
    found = find_decoder(small(family, **options))
    assert [p.name.partition(f".{i}.")[2] for i, p in enumerate(found.projections)] == [f"{name}.weight"] * 2


class Bare(nn.Module):
    """An MLP whose last weight belongs to no linear layer."""

    def __init__(self, inside):
        super().__init__()
        self.up = inside.up_proj
        self.down = nn.Parameter(inside.down_proj.weight.detach().T.clone())

    def forward(self, hidden):
        return self.up(hidden).relu() @ self.down


def test_another_layer_is_not_taken_for_a_down_projection_that_is_none():
    model = small("llama")
    for layer in model.model.layers:
        layer.mlp = Bare(layer.mlp)
    with pytest.raises(ModelError, match="block 0: weights of another kind come after its last linear"):
        find_decoder(model)
