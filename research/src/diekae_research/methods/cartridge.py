"""CARTRIDGE (Eyuboglu et al., 2025) on PEFT: keys and values trained for one document, then used instead of its tokens.

A cartridge belongs to one K, so nothing can be learned before a document is met. The comparison that is meaningful and
cheap is therefore made on a few documents: each gets its cartridge the first time one of its inputs is scored, and
:attr:`Cartridges.cost` says what that took, to be divided by the number of documents and set against the single
forward pass in which a bank reads K. PEFT's recipe is followed (examples/cartridge_self_study):

- it starts from the keys and values of anchor and the first tokens of K, and the first, the attention sink, stays;
- self-study: D reads K and goes on from a few instructions, sampled; no target of the data set is ever seen;
- the cartridge is trained so that D, with it, predicts what D(K, ·) predicted: Kullback–Leibler divergence over the
  sampled tokens. (PEFT's example keeps the teacher's 20 likeliest tokens; here it is the whole distribution.)

Shapes: S samples, L their tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, PreTrainedModel

from diekae.data.prompt import Prompt, pad_left
from diekae.fingerprint import window
from diekae.inject.hookpoints import stack_of
from diekae.progress import Progress
from diekae.run.answer import until_end
from diekae_research.methods.base import Cost, Fitted, Task, register
from diekae_research.methods.decoders import Prefixed, need_peft, twin

RATE = 1e-3
"""Peak learning rate unless the task names another: that of PEFT's example."""
INSTRUCTIONS = (
    "Summarize the most important points of the text above.",
    "Ask a question about the text above, then answer it.",
    "List the facts of the text above, one by one.",
    "Outline how the text above is organised.",
)
"""What self-study begins with, in turn."""


@dataclass(frozen=True)
class CartridgeOptions:
    """How large a cartridge is, and how long it studies."""

    tokens: int = 64
    """Keys and values of a cartridge, the anchor's among them; never more than anchor and K have."""
    samples: int = 8
    """Continuations sampled from D(K, ·) for each document."""
    sample_tokens: int = 48
    """Length of a continuation."""
    steps: int = 32
    """Optimizer steps for each document, each over all samples."""


class Study(NamedTuple):
    """What a cartridge learns from."""

    ids: Tensor
    """Instructions and what the decoder said after K and them, padded on the right, [S, L]."""
    scored: Tensor
    """Places that predict what was said, bool [S, L]."""
    teacher: Tensor
    """Log-probabilities of D(K, ·) there, [scored, vocabulary]."""


@dataclass(kw_only=True)
class Cartridges(Prefixed):
    """A decoder that reads x behind a cartridge; each K gets its own when it is first met."""

    options: CartridgeOptions
    """Sizes."""
    rate: float
    """Learning rate."""
    instructions: list[tuple[int, ...]]
    """Tokens of the instructions of self-study."""
    seed: int
    """Decides what is sampled."""
    progress: Progress
    """Told how far the training of a cartridge is."""
    trained: dict[tuple[int, ...], Cache] = field(default_factory=dict, repr=False)
    """Cartridges by the tokens of anchor and K."""

    def prefix(self, prompt: Prompt) -> Cache:
        """See :meth:`Prefixed.prefix`."""
        key = prompt.anchor + prompt.knowledge
        if key not in self.trained:
            start = time.perf_counter()
            with torch.enable_grad(), torch.random.fork_rng(devices=_devices(self.decoder)):
                torch.manual_seed(self.seed)
                self.trained[key], parameters = self._study(key)
            cost = self.cost
            self.cost = Cost(cost.parameters + parameters, cost.seconds + time.perf_counter() - start, 1.0)
        return self.trained[key]

    def _study(self, key: tuple[int, ...]) -> tuple[Cache, int]:
        """Train the cartridge of one document; returns it and how many parameters were trained."""
        from peft import CartridgeConfig, get_peft_model, initialize_kv_prefix_from_past_key_values

        with torch.no_grad():
            read = DynamicCache(config=self.decoder.config)
            ids = torch.tensor([key], device=self.decoder.device)
            stack_of(self.decoder)(input_ids=ids, past_key_values=read, use_cache=True)
            size = min(self.options.tokens, len(key))
            config = CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=size, num_frozen_tokens=1)
            student: Any = get_peft_model(twin(self.decoder), config).eval()
            held: list[Any] = read.layers
            pairs = [(layer.keys, layer.values) for layer in held]
            initialize_kv_prefix_from_past_key_values(student, past_key_values=pairs)
        wanted = [parameter for parameter in student.parameters() if parameter.requires_grad]
        if wanted and wanted[0].numel() and self.options.steps:
            self._distill(student, wanted, key)
        with torch.no_grad():
            return student.get_prompt(batch_size=1), sum(parameter.numel() for parameter in wanted)

    def _distill(self, student: Any, wanted: list[Tensor], key: tuple[int, ...]) -> None:
        """Train the cartridge on what the decoder says with K before it."""
        study = self._sample(key)
        optimizer = torch.optim.AdamW(wanted, lr=self.rate, weight_decay=0.0)
        for step in range(self.options.steps):
            logits = self._predict(study.ids, study.scored, student.get_prompt(batch_size=len(study.ids)))
            loss = F.kl_div(logits.log_softmax(-1), study.teacher, log_target=True, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.progress("training a cartridge", step + 1, self.options.steps)

    @torch.no_grad()
    def _sample(self, key: tuple[int, ...]) -> Study:
        """Let the decoder read K and go on from the instructions.

        Raises:
            ValueError: K leaves no room for that in the decoder's window.
        """
        asked = [self.instructions[number % len(self.instructions)] for number in range(self.options.samples)]
        ids, mask = pad_left([key + ask for ask in asked], self.tokenizer.pad_token_id, self.decoder.device)
        room = window(self.decoder) - ids.shape[1]
        if room < 1:
            raise ValueError(
                f"K takes {len(key)} tokens of a window of {window(self.decoder)}, which leaves none for self-study; "
                "shorten K with max_knowledge, or leave the method 'cartridge' out."
            )
        padding, length = self.tokenizer.pad_token_id or 0, min(room, self.options.sample_tokens)
        made = self.decoder.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, do_sample=True, max_new_tokens=length, pad_token_id=padding
        )
        rows = [
            list(ask) + row for ask, row in zip(asked, until_end(made[:, ids.shape[1] :], self.decoder), strict=True)
        ]
        longest = max(map(len, rows))
        scored = [
            [len(ask) - 1 <= n < len(row) - 1 for n in range(longest)] for ask, row in zip(asked, rows, strict=True)
        ]
        behind = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=ids.device)
        places = torch.tensor(scored, device=ids.device)
        start, read = torch.tensor([key], device=ids.device), DynamicCache(config=self.decoder.config)
        stack_of(self.decoder)(input_ids=start.expand(len(rows), -1), past_key_values=read, use_cache=True)
        return Study(behind, places, self._predict(behind, places, read).log_softmax(-1))

    def _predict(self, ids: Tensor, scored: Tensor, cache: Cache) -> Tensor:
        """Return the logits at the scored places of ids behind keys and values, [scored, vocabulary]."""
        logits: Tensor = self.decoder(input_ids=ids, past_key_values=cache, use_cache=True).logits
        return logits[scored].float()


def _devices(decoder: PreTrainedModel) -> list[torch.device]:
    return [decoder.device] if decoder.device.type == "cuda" else []


@register("cartridge")
def cartridge(task: Task) -> Fitted:
    """Return a method that trains a cartridge for every document it meets.

    Raises:
        ModuleNotFoundError: PEFT is not installed.
        ValueError: The task gives no knowledge, or x keeps an anchor of its own, which a cartridge has no place for.
    """
    need_peft("cartridge")
    if not task.knowledge or task.diekae.anchor == "own":
        raise ValueError(
            f"knowledge={task.knowledge} and anchor={task.diekae.anchor!r}: a cartridge stands for K and the anchor, "
            "so it needs knowledge=True and anchor='shared'; leave the method 'cartridge' out here."
        )
    tokenize = task.tokenizer
    return Cartridges(
        name="cartridge",
        decoder=task.decoder,
        tokenizer=tokenize,
        options=CartridgeOptions(),
        rate=task.learning_rates.get("cartridge", RATE),
        instructions=[tuple(tokenize(f"\n{ask}\n", add_special_tokens=False).input_ids) for ask in INSTRUCTIONS],
        seed=task.training.seed,
        progress=task.progress or (lambda _what, _done, _all: None),
    )
