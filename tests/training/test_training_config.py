"""The training configuration: invalid values and unknown keys."""

from typing import Any

import pytest

from diekae.training.config import TrainingConfig
from diekae.training.objectives import OBJECTIVES


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objective": "diference"}, "Did you mean 'difference'"),
        ({"precision": "fp8"}, "choose one of auto, fp32, bf16"),
        ({"batch_size": 0}, "batch_size=0 must be positive"),
        ({"epochs": 0}, "epochs=0 must be positive"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"epochs": "3,5"}, "epochs='3,5'"),
    ],
)
def test_an_invalid_value_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainingConfig.from_dict(values)


def test_an_unknown_key_warns_and_names_the_nearest() -> None:
    with pytest.warns(UserWarning, match="'epoch' is not known and is ignored. Did you mean 'epochs'"):
        TrainingConfig.from_dict({"epoch": 3})


def test_the_configuration_names_the_objectives_that_there_are() -> None:
    for name in OBJECTIVES:
        assert TrainingConfig(objective=name).objective == name
    with pytest.raises(ValueError, match=f"choose one of {', '.join(OBJECTIVES)}"):
        TrainingConfig(objective="none")
