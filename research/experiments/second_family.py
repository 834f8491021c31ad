"""Can a bank learn to read for another family of decoders? A small Gemma is trained from scratch, then a bank for it.

    python research/experiments/second_family.py --out runs/second-family --json research/results/second-family.json

Tokenizer and decoder are trained here, on fictional documents whose names no test document shares, so no weights are
downloaded. The bank's recipe is the shipped one's except for sizes and data: every second layer of six, or all, and
fictional facts alone. An interrupted run continues where it stopped. The result is not in the repository.
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

from diekae.data.batch import pad_left
from diekae.data.example import Example
from diekae.data.prompt import Prompter
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
    """Write documents, and return each one's questions."""
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
    texts = (f"{questions[0].knowledge[0]}\nQuestion: {questions[0].input}" for questions in examples(1))
    model.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


class Readings(Dataset[dict[str, Any]]):
    """Rows of a document and its questions; in one of eight rows the document is missing."""

    def __init__(self, prompter: Prompter, seeds: range) -> None:
        """Write the documents of all seeds. Other seeds give other facts to the same names, so they must be read."""
        self.rows: list[tuple[int, ...]] = []
        for seed in seeds:
            for number, questions in enumerate(examples(seed)):
                prompts = [prompter.prompt(question, "qa") for question in questions]
                row = prompts[0].anchor + (() if number % 8 == 0 else prompts[0].knowledge)
                for prompt in prompts:
                    row += prompt.input + prompt.target
                self.rows.append(row)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one row."""
        return {"input_ids": self.rows[index], "length": len(self.rows[index])}

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad rows; padding has no loss."""
        ids, mask = pad_left([item["input_ids"] for item in items], 0, torch.device("cpu"))
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def make_decoder(tokenizer: PreTrainedTokenizerFast, out: Path, seeds: int, seed: int) -> tuple[Any, list[Any]]:
    """Train the decoder, or continue its training; return it and the log."""
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


def print_progress(what: str, done: int, total: int) -> None:
    """Overwrite the line until the work is done."""
    print(f"\r{what} {done}/{total}", end="" if done < total else "\n")


def main(
    out: Annotated[Path, typer.Option(help="Folder for the decoder and the banks.")],
    json: Annotated[Path, typer.Option(help="Where the figures go.")],
    rounds: Annotated[int, typer.Option(help=f"The decoder learns from so many times {DOCUMENTS} documents.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the decoder.")] = 0,
) -> None:
    """Train a decoder that reads, then its banks, and measure them on documents with other names."""
    tokenizer = make_tokenizer()
    decoder, log = make_decoder(tokenizer, out, rounds, seed)
    decoder.config.name_or_path = "second-family"
    banks = {}
    for layers in LAYERS:
        recipe = make_recipe({**RECIPE, "diekae": {**BANK, "layers": layers}})
        folder = out / f"bank-{layers.replace(':', '-')}"
        _, banks[layers] = run_recipe(recipe, folder, resume=True, progress=print_progress, loaded=(decoder, tokenizer))
        for name, scores in banks[layers]["sets"].items():
            print(layers, name, scores["nll"], scores["recovered"], scores["grounded"])
    sizes = {"family": decoder.config.model_type, "parameters": decoder.num_parameters(), "rounds": rounds, **SIZES}
    write_json(json, {"decoder": {**sizes, "vocabulary": VOCABULARY, "log": log}, "banks": banks})


if __name__ == "__main__":
    typer.run(main)
