"""The parts of the Hugging Face Trainer that ours replaces have the signatures that ours expects."""

import inspect

import pytest
from transformers import Trainer

from diekae.training.trainer import BankTrainer

REPLACED = {
    "_clip_grad_norm": ["self", "model"],
    "_get_train_sampler": ["self", "train_dataset"],
    "_save_checkpoint": ["self", "model", "trial"],
    "get_batch_samples": ["self", "epoch_iterator", "num_batches", "device"],
    "get_decay_parameter_names": ["self", "model"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "log": ["self", "logs", "start_time"],
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_method_has_the_base_class_signature(name: str) -> None:
    for kind in (Trainer, BankTrainer):
        assert list(inspect.signature(getattr(kind, name)).parameters) == REPLACED[name], kind


def test_all_replaced_methods_are_listed() -> None:
    replaced = {name for name in vars(BankTrainer) if hasattr(Trainer, name) and not name.startswith("__")}
    assert replaced == set(REPLACED)


def test_the_trainer_still_calls_the_private_methods() -> None:
    source = inspect.getsource(Trainer)
    for call in (
        "self._clip_grad_norm(model)",
        "self._get_train_sampler",
        "self._save_checkpoint(model, trial)",
        "self.get_batch_samples(",
    ):
        assert call in source
