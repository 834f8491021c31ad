"""A tiny random decoder whose tokens are bytes, so that answers hold half characters, and requests to its engine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from builders import make_decoder
from diekae import DiekaeModel
from diekae.serve.job import Delta, End, Event, Job, Sampling

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOWER = "The tower is 42 metres tall. Its architect was Ada Bell.\n"
SHIP = "The silver ship left the harbour in May. Its captain was Tom Reed.\n"


def make_bytes_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>", pad_token="<pad>",
        additional_special_tokens=["</s>", "<|im_start|>"],
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


def make_served_model(**sizes: Any) -> DiekaeModel:
    """A model of that tokenizer that reads exactly."""
    decoder = make_decoder(vocab_size=len(SPECIAL) + 256, max_position_embeddings=2048, eos_token_id=4, **sizes)
    return DiekaeModel.exact(decoder, make_bytes_tokenizer())


class Request:
    """A job, and the events that it has reported."""

    def __init__(self, model: DiekaeModel, question: str, document: str | None = None, **sampling: Any) -> None:
        """Ask a question, with a document or without."""
        self.events: list[Event] = []
        self.done = threading.Event()
        self.growing = threading.Event()
        system = sampling.pop("system", None)
        messages = [{"role": "system", "content": system}] if system else []
        anchor, rest = model.need_prompter().chat([*messages, {"role": "user", "content": question}])
        prepared = None
        if document is not None:
            from diekae.prepare import read_documents

            prepared = read_documents(model.attached, anchor, [model.need_prompter().knowledge(document)])[0]
        self.job = Job(anchor + rest, prepared, Sampling(**{"max_new_tokens": 24, **sampling}), self.take)

    def take(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)
        self.growing.set()
        if not isinstance(event, Delta):
            self.done.set()

    def wait(self) -> Request:
        """Wait for the end."""
        assert self.done.wait(30), "the answer did not end"
        return self

    @property
    def text(self) -> str:
        """Return what was sent, in one piece."""
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def end(self) -> End:
        """Return the last event."""
        assert isinstance(self.events[-1], End), self.events[-1]
        return self.events[-1]


def texts_of(requests: Sequence[Request]) -> list[str]:
    """Wait for all and return what they answered."""
    return [request.wait().text for request in requests]
