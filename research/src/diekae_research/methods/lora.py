"""LoRA (Hu et al., 2021) by PEFT, with K in the prompt: the paper's first trained baseline (section 5).

Rank 24, α 32 and dropout 0.05 are the paper's (appendix A.4), on queries and values, as PEFT does by default.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel, set_seed

from diekae.inject.hookpoints import find_blocks
from diekae_research.methods.base import Fitted, Task
from diekae_research.methods.decoders import Plain, twin
from diekae_research.methods.tuning import tune

RATE = 2e-4
"""Peak learning rate unless the task names another."""
SETTINGS: dict[str, Any] = {"r": 24, "lora_alpha": 32, "lora_dropout": 0.05, "task_type": "CAUSAL_LM"}


def lora(task: Task) -> Fitted:
    """Train adapters on a copy that shares the decoder's weights.

    Raises:
        ValueError: The projections of queries and values are not known for this decoder.
    """
    set_seed(task.training.seed)  # adapters start at random
    decoder = with_adapters(task.decoder)
    cost = tune("lora", decoder, task, task.config("lora", RATE))
    return Plain(name="lora", cost=cost, **{**task.common(), "decoder": decoder})


def with_adapters(decoder: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the decoder with untrained adapters, which change nothing; the decoder's weights are shared."""
    from peft import LoraConfig, inject_adapter_in_model

    copied = twin(decoder)
    inject_adapter_in_model(LoraConfig(**SETTINGS, target_modules=find_targets(decoder)), copied)
    for name, parameter in copied.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), f"{name}: adapters alone are trained"
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # bf16 loses AdamW's small steps
    return copied


def find_targets(decoder: PreTrainedModel) -> list[str]:
    """Return the names of the projections of queries and values, by their usual names or PEFT's table.

    Some decoders project queries, keys and values by one module; it is returned then.

    Raises:
        ValueError: They are not known for this decoder.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    leaves = {
        name.rpartition(".")[2]
        for name, module in find_blocks(decoder)[0].named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's linear maps
    }
    kind = decoder.config.get_text_config(decoder=True).model_type
    for targets in (["q_proj", "v_proj"], KNOWN.get(kind, []), ["qkv_proj"]):
        if targets and set(targets) <= leaves:
            return list(targets)
    table = ", ".join(KNOWN.get(kind, [])) or "nothing"
    raise ValueError(
        f"cannot tell which modules of {kind!r} project queries and values: expected q_proj and v_proj, qkv_proj, or "
        f"what PEFT names for {kind!r} ({table}), among {', '.join(sorted(leaves))}; leave the method 'lora' out for "
        "this decoder."
    )
