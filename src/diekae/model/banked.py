"""A decoder with a bank: creating, loading and saving it; and the attention that reads K."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from transformers import PreTrainedModel

from diekae.checkpoint import CONFIG_NAME, SavedBank, load_bank, save_bank
from diekae.config import DiekaeConfig, resolve_layers
from diekae.data.formats import Format
from diekae.data.prompt import Prompter
from diekae.editor import Editor
from diekae.encoders import encoder_class
from diekae.encoders.bank import Bank
from diekae.files import as_path
from diekae.fingerprint import fingerprint
from diekae.hub import CARD_NAME, create_repository, model_card, public_name, upload_bank
from diekae.inject.attached import Attached
from diekae.inject.attention import AttentionSite, find_attention
from diekae.inject.exactness import check_exact
from diekae.inject.hookpoints import find_blocks, find_hookpoints
from diekae.inject.rotary import check_positions
from diekae.model.arguments import check_decoder
from diekae.moving import MovesWithDecoder
from diekae.placement import input_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class BankedDecoder(MovesWithDecoder):
    """A frozen decoder with a bank of encoders.

    Only the bank's parameters belong to this module: ``parameters()``, ``state_dict()`` and an optimizer do not see the
    decoder, which is neither copied nor changed. ``to(device)`` moves both.
    """

    def __init__(
        self,
        decoder: PreTrainedModel,
        config: DiekaeConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Create an untrained bank for a decoder.

        The encoder ``attention`` reads K at once, as the decoder does. By default, ``reader`` and ``token`` change
        nothing before they are trained.

        Args:
            decoder: Any ``*ForCausalLM``.
            config: What the bank is; the defaults if None.
            tokenizer: The decoder's tokenizer; needed wherever texts are passed instead of tokens.

        Raises:
            ValueError: The decoder's layers cannot be found, or a configured layer does not exist.
            TypeError: The decoder is not a loaded model.
        """
        super().__init__()
        check_decoder(decoder)
        self.config = config or DiekaeConfig()
        self.tokenizer = tokenizer
        self.editor: Editor | None = None
        self.layers = resolve_layers(self.config.layers, len(find_blocks(decoder)))
        self.hookpoints = find_hookpoints(decoder, self.layers, self.config.site)
        sites: dict[int, AttentionSite] = {}
        if encoder_class(self.config.encoder).reads == "attention":
            sites = sites_of_layers(decoder, self.layers)
            self.config = self.config.resolve_sizes(sizes_of_attention(sites.values()))
        # A dict hides the decoder from nn.Module, which would register its parameters.
        self._outside: dict[str, Any] = {"decoder": decoder, "sites": sites}
        embedding_width = int(decoder.get_input_embeddings().weight.shape[1])  # type: ignore[index]
        width = decoder.config.get_text_config(decoder=True).hidden_size
        try:
            self.bank = Bank(self.config.encoder, self.config.encoder_options, self.layers, embedding_width, width)
        except (RuntimeError, MemoryError, OverflowError) as error:
            raise ValueError(
                f"encoder_options={dict(self.config.encoder_options)}: there is no memory for encoders of these sizes; "
                "choose smaller ones."
            ) from error
        self.bank.to(input_device(decoder))
        self.bank.decoder = fingerprint(decoder)
        self.prompter: Prompter | None = None
        if tokenizer is not None:
            self.prompter = Prompter(tokenizer, self.config.template, self.config.format, self.config.system)
        self.anchor = self.prompter.anchor() if self.prompter else ()

    @classmethod
    def exact(
        cls,
        decoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        layers: str | Sequence[int] = "all",
        **options: Any,
    ) -> Self:
        """Create a model that reads K exactly as with K in the prompt, without training or data.

        Args:
            decoder: A ``*ForCausalLM`` with rotary positions.
            tokenizer: The decoder's tokenizer.
            layers: Layers that read K. Fewer than ``all`` take less memory and time, and answer worse.
            **options: Other fields of :class:`DiekaeConfig`, such as ``template``, ``system`` and ``format``. The
                format is ``chat`` by default if the tokenizer has a chat template.

        Raises:
            ValueError: The decoder cannot read K exactly; the message says why.
        """
        if tokenizer is not None and tokenizer.chat_template:
            options.setdefault("format", "chat")
        return cls(decoder, DiekaeConfig.preset("exact", layers=layers, **options), tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        decoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        check: bool = True,
        format: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load a bank, and its decoder if none is passed.

        Args:
            folder: A folder that :meth:`save_pretrained` wrote, the name of a shipped bank (``smollm2``), or the id of
                a bank on the Hugging Face hub (``user/bank``).
            decoder: The bank's decoder; loaded by the name in the bank if None.
            tokenizer: The decoder's tokenizer.
            check: Whether to refuse a decoder with another fingerprint than the bank's.
            format: Format of x; the bank's own if None. ``auto`` is ``chat`` if the tokenizer has a chat template.
            dtype: Type to load the decoder in; the fast one of the device if None. Unused if a decoder is passed.
            device: Device to load the decoder onto; the CPU if None. Unused if a decoder is passed.
            revision: Branch, tag or commit of a bank on the hub; the main branch if None.

        Raises:
            FileNotFoundError: The folder contains no bank.
            ValueError: The bank is damaged, was made for another decoder, or its decoder cannot be loaded.
        """
        saved = load_bank(as_path(folder), revision)
        if decoder is None:
            decoder, tokenizer = _load_decoder(saved, dtype, device)
        if check:
            saved.check_decoder(decoder)
        if format == "auto":
            format = "chat" if tokenizer is not None and tokenizer.chat_template else None
        config = saved.config if format is None else replace(saved.config, format=cast(Format, format))
        model = cls(decoder, config, tokenizer)
        if config.format == saved.config.format:
            model.anchor = saved.anchor
        model.bank.load_by_layer(saved.tensors)
        return model

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Save the bank, without the decoder: ``config.json`` and the weights as safetensors.

        Args:
            folder: The folder to write.
            dtype: Type to save the weights in; their own if None.
        """
        save_bank(as_path(folder), self.bank, self.config, self.decoder, self.anchor, dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        base_model: str | None = None,
        result: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a bank",
    ) -> str:
        """Upload the bank to the Hugging Face hub, with a model card; both replace those of an earlier commit.

        Args:
            repo_id: The repository, ``user/bank``; created if it is missing.
            base_model: Id of the decoder on the hub; needed if the decoder was loaded from a folder.
            result: The figures of the bank's run, as in its ``result.json``; shown in the card.
            dtype: Type to save the weights in; their own if None.
            private: Whether a new repository is private; the hub's default if None.
            revision: Branch to upload to, created if it is missing; the main branch if None.
            commit_message: Message of the commit.

        Returns:
            The address of the commit.

        Raises:
            ValueError: Others cannot load the decoder by its name.
        """
        name = public_name(self.decoder.config.name_or_path or "", base_model)
        repo_id = create_repository(repo_id, private)
        parameters = sum(parameter.numel() for parameter in self.bank.parameters())
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            save_bank(folder, self.bank, self.config, self.decoder, self.anchor, dtype, name)
            card = model_card(repo_id, name, self.config.encoder, self.layers, parameters, result)
            (folder / CARD_NAME).write_text(card, encoding="utf-8")
            return upload_bank(folder, repo_id, revision, commit_message)

    def print_trainable_parameters(self) -> None:
        """Print the number of the bank's parameters, and of all parameters with the decoder's."""
        trained = sum(parameter.numel() for parameter in self.bank.parameters())
        total = trained + sum(parameter.numel() for parameter in self.decoder.parameters())
        print(f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}")

    def __getstate__(self) -> dict[str, Any]:
        """Return what ``copy.deepcopy`` and ``pickle`` keep: everything, decoder and tokenizer included.

        Raises:
            ValueError: The model is edited.
        """
        if self.editor is not None:
            raise ValueError(
                "an edited model cannot be copied or pickled, because its edits lie in a store; copy it while "
                "model.editor is None, and give the copy the edits: load_edits(copy, folder)."
            )
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return state

    @property
    def attached(self) -> Attached:
        """Return the bank at its hookpoints in the decoder."""
        return Attached(self.decoder, self.bank, self.hookpoints, self._outside["sites"], self.config.anchor == "own")

    @property
    def decoder(self) -> PreTrainedModel:
        """Return the frozen decoder."""
        decoder: PreTrainedModel = self._outside["decoder"]
        return decoder

    @property
    def device(self) -> torch.device:
        """Return the device that inputs must be on."""
        return input_device(self.decoder)


def _load_decoder(
    saved: SavedBank, dtype: torch.dtype | None, device: str | torch.device | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the decoder that a bank names; ValueError if it cannot be loaded."""
    from diekae.models import load_decoder  # only here does the model depend on ways to load decoders

    try:
        return load_decoder(saved.decoder_name, dtype=dtype, device=device)
    except ValueError as error:
        bank, name = str(saved.folder), saved.decoder_name
        raise ValueError(
            f"the bank {bank!r} was made for the decoder {name!r} (fingerprint {saved.decoder.fingerprint}), which "
            f"cannot be loaded. If it is elsewhere now, pass it: DiekaeModel.from_pretrained({bank!r}, decoder, "
            f"tokenizer); or write its new name into the bank's {CONFIG_NAME}. {error}"
        ) from error


def sites_of_layers(decoder: PreTrainedModel, layers: Sequence[int]) -> dict[int, AttentionSite]:
    """Return the attention of some layers; a ValueError says why it cannot read K exactly."""
    check_positions(decoder)
    sites = check_exact(decoder, find_attention(decoder))
    return {layer: sites[layer] for layer in layers}


def sizes_of_attention(sites: Iterable[AttentionSite]) -> dict[str, int]:
    """Return the sizes for :meth:`DiekaeConfig.resolve_sizes`; ValueError if the layers' attention is not alike."""
    shapes = {(site.heads, site.key_shape, site.value_shape) for site in sites}
    if len(shapes) != 1:
        raise ValueError(
            f"encoder='attention' needs layers whose attention is alike, and these have {sorted(shapes)} (heads, keys, "
            "values); choose layers of one kind, or use encoder='reader'."
        )
    heads, (groups, key_size), (_, value_size) = shapes.pop()
    return {"heads": heads, "kv_heads": groups, "key_size": key_size, "value_size": value_size}
