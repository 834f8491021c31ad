"""lm-evaluation-harness (EleutherAI, 0.4) with knowledge injected: the model type ``diekae``.

Importing this module registers the type, so that any task of the harness runs on a bank:

    import lm_eval
    import diekae_research.evaluation.harness

    lm_eval.simple_evaluate(model="diekae", model_args={"bank": FOLDER, "knowledge": FILE}, tasks=["piqa"])

Shapes: B rows, L columns, A tokens of the anchor.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the model type 'diekae' needs lm-evaluation-harness ({error}): run `pip install 'diekae-research[harness]'`"
    ) from error


@register_model("diekae")
class DiekaeLM(HFLM):  # type: ignore[misc]
    """The harness's Hugging Face model with one text injected into every forward pass.

    Each request is put behind the bank's anchor, and the harness sees a window that is shorter by the anchor.
    """

    def __init__(
        self,
        bank: str,
        knowledge: str | None = None,
        decoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """Load a bank and prepare the knowledge for all requests.

        Args:
            bank: A bank's folder.
            knowledge: A UTF-8 text file that is known to every request; None leaves the decoder as it is.
            decoder: The bank's decoder; loaded by its name if None.
            tokenizer: The decoder's.
            device: Where it runs; the decoder's device if None.
            **options: Options of ``HFLM``: ``batch_size``, ``max_length``, …

        Raises:
            FileNotFoundError: There is no such bank or file.
            ValueError: The bank was made for another decoder, or the file is blank.
        """
        if knowledge is not None and not Path(knowledge).is_file():
            raise FileNotFoundError(f"no knowledge file at {str(knowledge)!r}; expected a text file.")
        self.diekae = DiekaeModel.from_pretrained(bank, decoder, tokenizer)
        if device is not None:
            self.diekae.to(device)
        text = None if knowledge is None else Path(knowledge).read_text(encoding="utf-8")
        self.prepared: PreparedKnowledge | None = None if text is None else self.diekae.prepare(text)
        tokenizer = self.diekae.need_prompter().tokenizer
        # The anchor is put before each row here, so the tokenizer must not add a token.
        options = {"add_bos_token": False, **options}
        super().__init__(pretrained=self.diekae.decoder, tokenizer=tokenizer, backend="causal", **options)

    @property
    def max_length(self) -> int:
        """Return the longest request, in tokens."""
        return int(super().max_length) - len(self.diekae.anchor)

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return the logits of rows [B, L], which may be padded on the right."""
        anchor = torch.tensor(self.diekae.anchor, device=inps.device)
        # For a request without a context the harness adds a first token, which may be the anchor.
        has_anchor = (
            (inps[:, : len(anchor)] == anchor).all(1) if inps.shape[1] >= len(anchor) else inps.new_zeros(1).bool()
        )
        if bool(has_anchor.all()):
            with self._injected(inps):
                return self._logits(inps, attn_mask, labels)
        if bool(has_anchor.any()):
            parts = {row: self._model_call(inps[row : row + 1]) for row in range(len(inps))}
            return torch.cat([parts[row] for row in range(len(inps))])
        full = torch.cat([anchor.expand(len(inps), -1), inps], dim=1)
        with self._injected(full):
            return self._logits(full, attn_mask, labels)[:, len(anchor) :]

    def _logits(self, ids: Tensor, attn_mask: Tensor | None, labels: Tensor | None) -> Tensor:
        logits: Tensor = super()._model_call(ids, attn_mask, labels)
        return logits

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        """Return rows [B, L] continued to ``max_length`` columns; they are padded on the left."""
        mask = options.pop("attention_mask", torch.ones_like(context))
        ids, mask = _with_anchor(context, mask, self.diekae.anchor)
        added = ids.shape[1] - context.shape[1]
        with self._injected(ids, mask):
            generated: Tensor = super()._model_generate(ids, max_length + added, stop, attention_mask=mask, **options)
        return generated[:, added:]

    def _injected(self, ids: Tensor, mask: Tensor | None = None) -> AbstractContextManager[object]:
        return self.diekae.injected(self.prepared, ids, mask)


def _with_anchor(ids: Tensor, mask: Tensor, anchor: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Put the anchor between padding and text of rows [B, L] padded on the left; [B, A + L]."""
    length = ids.shape[1] + len(anchor)
    rows, masks = [], []
    for row, real in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        text = row[len(row) - real :]
        text = text if tuple(text[: len(anchor)]) == anchor else [*anchor, *text]
        rows.append([row[0]] * (length - len(text)) + text)
        masks.append([0] * (length - len(text)) + [1] * len(text))
    return torch.tensor(rows, device=ids.device), torch.tensor(masks, device=ids.device)
