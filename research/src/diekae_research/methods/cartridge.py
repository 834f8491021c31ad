"""CARTRIDGE (Eyuboglu et al., 2025) by PEFT: keys and values trained for one document, used in place of its tokens.

A cartridge belongs to one K, so it is trained the first time one of the document's inputs is scored.
:attr:`Cartridges.cost` is the cost of all cartridges; a bank reads K in one forward pass instead. PEFT's recipe is
followed (examples/cartridge_self_study):

- A cartridge starts from the keys and values of the anchor and the first tokens of K. The first entry, the attention
  sink, is not trained.
- Self-study: D reads K and continues a few instructions, sampled. No target of the data set is used.
- The cartridge is trained so that D with it predicts what D(K, ·) predicted: KL divergence over the sampled tokens.
  (PEFT's example keeps the teacher's 20 likeliest tokens; here it is the whole distribution.)

Shapes: S samples, L their tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache

from diekae.data.batch import pad_left
from diekae.data.prompt import Prompt
from diekae.fingerprint import window
from diekae.inject.hookpoints import stack_of
from diekae.model.generation import until_end
from diekae.progress import Progress
from diekae_research.methods.base import Cost, Fitted, Task
from diekae_research.methods.decoders import Prefixed, twin

RATE = 1e-3
"""Peak learning rate unless the task names another: that of PEFT's example."""
INSTRUCTIONS = (
    "Summarize the most important points of the text above.",
    "Ask a question about the text above, then answer it.",
    "List the facts of the text above, one by one.",
    "Outline how the text above is organised.",
)
"""The instructions of self-study, used in turn."""


@dataclass(frozen=True)
class CartridgeOptions:
    """Size of a cartridge, and length of its training."""

    tokens: int = 64
    """Keys and values of a cartridge, the anchor's included; never more than anchor and K have."""
    samples: int = 8
    """Continuations sampled from D(K, ·) for each document."""
    sample_tokens: int = 48
    """Length of a continuation."""
    steps: int = 32
    """Optimizer steps for each document, each over all samples."""


class Study(NamedTuple):
    """The samples that a cartridge is trained on."""

    ids: Tensor
    """Instructions and their continuations after K, padded on the right, [S, L]."""
    scored: Tensor
    """Positions that predict the continuation, bool [S, L]."""
    teacher: Tensor
    """Log-probabilities of D(K, ·) there, [scored, vocabulary]."""


@dataclass(kw_only=True)
class Cartridges(Prefixed):
    """A decoder that reads x behind a cartridge; each K gets its own at its first input."""

    options: CartridgeOptions
    """Sizes."""
    rate: float
    """Learning rate."""
    instructions: list[tuple[int, ...]]
    """Tokens of the instructions."""
    seed: int
    """Decides the samples."""
    progress: Progress
    """Called as a cartridge is trained."""
    trained: dict[tuple[int, ...], Cache] = field(default_factory=dict, repr=False)
    """Cartridges by the tokens of anchor and K."""

    def prefix(self, prompt: Prompt) -> Cache:
        """See :meth:`Prefixed.prefix`."""
        key = prompt.anchor + prompt.knowledge
        if key not in self.trained:
            start = time.perf_counter()
            gpus = [self.decoder.device] if self.decoder.device.type == "cuda" else []
            with torch.enable_grad(), torch.random.fork_rng(devices=gpus):
                torch.manual_seed(self.seed)
                self.trained[key], parameters = self._study(key)
            cost = self.cost
            self.cost = Cost(cost.parameters + parameters, cost.seconds + time.perf_counter() - start, 1.0)
        return self.trained[key]

    def _study(self, key: tuple[int, ...]) -> tuple[Cache, int]:
        """Train the cartridge of one document; return it and the number of trained parameters."""
        from peft import CartridgeConfig, get_peft_model, initialize_kv_prefix_from_past_key_values

        with torch.no_grad():
            read = DynamicCache(config=self.decoder.config)
            ids = torch.tensor([key], device=self.decoder.device)
            stack_of(self.decoder)(input_ids=ids, cache=read, use_cache=True)
            size = min(self.options.tokens, len(key))
            config = CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=size, num_frozen_tokens=1)
            student: Any = get_peft_model(twin(self.decoder), config).eval()
            layers: list[Any] = read.layers
            pairs = [(layer.keys, layer.values) for layer in layers]
            initialize_kv_prefix_from_past_key_values(student, past_key_values=pairs)
        trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
        if trainable and trainable[0].numel() and self.options.steps:
            self._distill(student, trainable, key)
        with torch.no_grad():
            return student.get_prompt(batch_size=1), sum(parameter.numel() for parameter in trainable)

    def _distill(self, student: Any, trainable: list[Tensor], key: tuple[int, ...]) -> None:
        """Train the cartridge on the distributions of D(K, ·)."""
        study = self._sample(key)
        optimizer = torch.optim.AdamW(trainable, lr=self.rate, weight_decay=0.0)
        for step in range(self.options.steps):
            logits = self._predict(study.ids, study.scored, student.get_prompt(batch_size=len(study.ids)))
            loss = F.kl_div(logits.log_softmax(-1), study.teacher, log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.progress("training a cartridge", step + 1, self.options.steps)

    @torch.no_grad()
    def _sample(self, key: tuple[int, ...]) -> Study:
        """Sample continuations of the instructions from the decoder, with K before them.

        Raises:
            ValueError: K leaves no room in the decoder's window.
        """
        chosen = [self.instructions[number % len(self.instructions)] for number in range(self.options.samples)]
        ids, mask = pad_left([key + tokens for tokens in chosen], self.tokenizer.pad_token_id, self.decoder.device)
        room = window(self.decoder) - ids.shape[1]
        if room < 1:
            raise ValueError(
                f"K takes {len(key)} tokens of a window of {window(self.decoder)}, which leaves none for self-study; "
                "shorten K with max_knowledge, or leave the method 'cartridge' out."
            )
        padding, length = self.tokenizer.pad_token_id or 0, min(room, self.options.sample_tokens)
        generated = self.decoder.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, do_sample=True, max_new_tokens=length, pad_token_id=padding
        )
        continuations = until_end(generated[:, ids.shape[1] :], self.decoder)
        rows = [list(tokens) + row for tokens, row in zip(chosen, continuations, strict=True)]
        longest = max(map(len, rows))
        predicting = [
            [len(tokens) - 1 <= n < len(row) - 1 for n in range(longest)]
            for tokens, row in zip(chosen, rows, strict=True)
        ]
        studied = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=ids.device)
        scored = torch.tensor(predicting, device=ids.device)
        prefix, read = torch.tensor([key], device=ids.device), DynamicCache(config=self.decoder.config)
        stack_of(self.decoder)(input_ids=prefix.expand(len(rows), -1), cache=read, use_cache=True)
        return Study(studied, scored, self._predict(studied, scored, read).log_softmax(-1))

    def _predict(self, ids: Tensor, scored: Tensor, cache: Cache) -> Tensor:
        """Return the logits at the scored positions of ids behind keys and values, [scored, vocabulary]."""
        logits: Tensor = self.decoder(input_ids=ids, cache=cache, use_cache=True).logits
        return logits[scored].float()


def cartridge(task: Task) -> Fitted:
    """Return a method that trains a cartridge for each document, when its first input is scored.

    Raises:
        ValueError: The task gives no knowledge, or x has an anchor of its own, which a cartridge does not support.
    """
    if not task.knowledge or task.diekae.anchor == "own":
        raise ValueError(
            f"knowledge={task.knowledge} and anchor={task.diekae.anchor!r}: a cartridge stands for K and the anchor, "
            "so it needs knowledge=True and anchor='shared'; leave the method 'cartridge' out here."
        )
    tokenizer = task.tokenizer
    return Cartridges(
        name="cartridge",
        decoder=task.decoder,
        tokenizer=tokenizer,
        options=CartridgeOptions(),
        rate=task.learning_rates.get("cartridge", RATE),
        instructions=[tuple(tokenizer(f"\n{text}\n", add_special_tokens=False).input_ids) for text in INSTRUCTIONS],
        seed=task.training.seed,
        progress=task.progress,
    )
