"""Another family of decoders: a small Gemma trained from scratch to read fictional documents, and a bank for it.

    python research/experiments/second_family.py --out runs/second-family --json research/results/second-family.json

No other weights are needed: tokenizer and decoder are made here, from documents whose names no test document shares.
The bank's recipe is the shipped one's but for sizes and data: every second layer of six, or all, and fictional facts
alone. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from diekae.data.example import Example
from diekae.data.prompt import Prompter, pad_left
from diekae.provenance import write_json
from diekae.recipe import make_recipe, run_recipe
from diekae_research.fiction import QUESTIONS
from diekae_research.sources.facts import facts

VOCABULARY, DOCUMENTS = 1024, 3000
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
}
TEMPLATE = "Context: {knowledge}\n\n"
LAYERS = ("every:2", "all")
BANK = {
    "encoder": "attention",
    "encoder_options": {"mlp_width": 48},
    "site": "attention",
    "format": "qa",
    "template": TEMPLATE,
}
RECIPE: dict[str, Any] = {
    "name": "second-family",
    "training": {
        "epochs": 5,
        "learning_rate": 4e-4,
        "start_learning_rate": 1e-4,
        "final_learning_rate": 3e-5,
        "evaluations": 5,
    },
    "data": {
        "train": [{"source": "facts", "limit": 1000}],
        "validation": [{"source": "facts", "limit": 48}],
        "test": [{"source": "facts", "limit": 300}],
    },
}


def examples(seed: int) -> list[list[Example]]:
    """Write documents, and return the questions of each."""
    rows = facts("train", DOCUMENTS, seed)
    return [rows[start : start + QUESTIONS] for start in range(0, len(rows), QUESTIONS)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train byte-level BPE on some of the documents."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator((f"{row[0].knowledge[0]}\nQuestion: {row[0].input}" for row in examples(1)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


class Readings(Dataset[dict[str, Any]]):
    """Documents with their questions behind them, and one in eight questions alone."""

    def __init__(self, prompter: Prompter, seeds: range) -> None:
        """Write the documents of all seeds: the same names with other facts, so that they must be read."""
        self.rows: list[tuple[int, ...]] = []
        for seed in seeds:
            for number, asked in enumerate(examples(seed)):
                parts = [prompter.prompt(example, "qa") for example in asked]
                known = () if number % 8 == 0 else parts[0].knowledge
                self.rows.append(sum((p.input + p.target for p in parts), parts[0].anchor + known))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one row."""
        return {"input_ids": self.rows[index], "length": len(self.rows[index])}

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad rows; padding is not learned."""
        ids, mask = pad_left([item["input_ids"] for item in items], 0, torch.device("cpu"))
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def make_decoder(tokenizer: PreTrainedTokenizerFast, out: Path, seeds: int, seed: int) -> tuple[Any, list[Any]]:
    """Train the decoder, or go on with it; returns it and the log."""
    config = GemmaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SIZES)
    set_seed(seed)
    decoder = GemmaForCausalLM(config)
    arguments = TrainingArguments(
        output_dir=str(out / "decoder"),
        per_device_train_batch_size=16,
        train_sampling_strategy="group_by_length",
        num_train_epochs=1,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        weight_decay=0.05,
        adam_beta2=0.98,
        save_steps=200,
        save_total_limit=1,
        logging_steps=50,
        report_to=[],
        seed=seed,
    )
    prompter = Prompter(tokenizer, TEMPLATE, "qa")
    data = Readings(prompter, range(1, 1 + seeds))
    trainer = Trainer(decoder, arguments, train_dataset=data, data_collator=Readings.collate)
    last = get_last_checkpoint(arguments.output_dir) if Path(arguments.output_dir).is_dir() else None
    if last is not None:
        state = TrainerState.load_from_json(str(Path(last) / "trainer_state.json"))
        if state.global_step >= state.max_steps:
            return GemmaForCausalLM.from_pretrained(last).eval(), state.log_history
    trainer.train(resume_from_checkpoint=last)
    return decoder.eval(), trainer.state.log_history


def main(
    out: Annotated[Path, typer.Option(help="Folder for decoder and bank.")],
    json: Annotated[Path, typer.Option(help="Where the figures go.")],
    rounds: Annotated[int, typer.Option(help=f"Times {DOCUMENTS} documents that the decoder learns from.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the decoder.")] = 0,
) -> None:
    """Make a decoder that reads, then a bank for it, and measure the bank on documents with names of their own."""
    tokenizer = make_tokenizer()
    decoder, log = make_decoder(tokenizer, out, rounds, seed)
    decoder.config.name_or_path = "second-family"
    show = lambda what, done, total: print(f"\r{what} {done}/{total}", end="" if done < total else "\n")  # noqa: E731
    banks = {}
    for layers in LAYERS:
        recipe = make_recipe({**RECIPE, "diekae": {**BANK, "layers": layers}})
        place = out / f"bank-{layers.replace(':', '-')}"
        _, banks[layers] = run_recipe(recipe, place, resume=True, progress=show, loaded=(decoder, tokenizer))
        for name, found in banks[layers]["sets"].items():
            nll = {how: round(value, 3) for how, value in found["nll"].items()}
            print(layers, name, nll, found["recovered"], found["grounded"])
    sizes = {"family": decoder.config.model_type, "parameters": decoder.num_parameters(), "rounds": rounds, **SIZES}
    write_json(json, {"decoder": {**sizes, "vocabulary": VOCABULARY, "log": log}, "banks": banks})


if __name__ == "__main__":
    typer.run(main)
