"""One tiny, randomly initialised model of each decoder shape, built from configs."""

from __future__ import annotations

from typing import Any

import torch
from devices import DEVICE
from transformers import AutoConfig, AutoModelForCausalLM

_COMMON = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    **_COMMON,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, **_COMMON},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        **_COMMON,
    },
    "gptj": {
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 64,
        "rotary_dim": 4,
        "tie_word_embeddings": False,
        **_COMMON,
    },
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": None},
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3-local": {
        **_LLAMA,
        "use_sliding_window": True,
        "sliding_window": 3,
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 2,
    },
    "gemma": _LLAMA,
    "gemma2": {**_LLAMA, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "phi": {**{k: v for k, v in _LLAMA.items() if k != "head_dim"}, "num_key_value_heads": 4},
    "phi3": {k: v for k, v in _LLAMA.items() if k != "head_dim"},
}


def tiny(family: str, seed: int = 0) -> Any:
    """A float32 model of the family in evaluation mode, with weights large enough to matter."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family.partition("-")[0], **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                table = parameter.shape[0] == config.vocab_size
                parameter.mul_(8.0 if table else 3.0)
    return model.to(DEVICE)
