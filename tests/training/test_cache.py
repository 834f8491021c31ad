"""The cache of differences: what it holds, when it is read again, and what it leaves behind."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import make_decoder, make_model, make_prompts
from diekae.data.batch import Batch
from diekae.data.prompt import Prompt
from diekae.fingerprint import fingerprint
from diekae.model import DiekaeModel
from diekae.training import run as training_run
from diekae.training.cache import SHARD, CachedDataset, collect_to_disk
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.differences import Differences
from diekae.training.objectives import OBJECTIVES, DifferenceObjective, difference_objective

FUZZ = int(os.environ.get("FUZZ_EXAMPLES", "20"))
"""Random damages of one file."""
COUNT = 2 * SHARD + 8
"""Examples of three shards, the last one short."""


def many_prompts(count: int = COUNT) -> list[Prompt]:
    return [prompt for seed in range(-(-count // 4)) for prompt in make_prompts(4, seed=seed)][:count]


class Gather:
    """Collects, and counts its calls."""

    def __init__(self, model: DiekaeModel, dies_at: int = -1) -> None:
        self.objective, self.calls, self.dies_at = difference_objective(model), 0, dies_at

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.calls += 1
        return self.objective.keep(batch)


def dataset_of(model: DiekaeModel, prompts: list[Prompt]) -> PromptDataset:
    return PromptDataset(prompts, scope=model.config.scope, anchor=model.config.anchor)


def cache_at(
    folder: Path, model: DiekaeModel, gather: Callable[[Batch], dict[str, Tensor]], limit_gb: float = 1.0, **key: Any
) -> CachedDataset:
    return collect_to_disk(folder, dataset_of(model, many_prompts()), gather, key=key, limit_gb=limit_gb)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("shard-*.safetensors"))


@pytest.mark.parametrize("options", [{}, {"anchor": "own", "scope": "prompt", "difference": "independent"}])
@pytest.mark.parametrize("encoder", ["reader", "token"])
def test_cached_differences_are_the_live_ones_rounded_to_bf16(
    tmp_path: Path, encoder: str, options: dict[str, str]
) -> None:
    model = make_model(encoder, **options)
    cached = cache_at(tmp_path, model, Gather(model))
    assert len(cached) == COUNT
    chosen = [SHARD + 3, 0, COUNT - 1, 5]  # across shards, in another order
    batch = cached.collate([cached[number] for number in chosen])
    dataset = dataset_of(model, many_prompts())
    live_batch = dataset.collate([dataset[number] for number in chosen])
    objective = DifferenceObjective(model)
    live = objective.collect(live_batch)
    found = Differences(**batch)
    assert torch.equal(found.knowledge_mask, live.knowledge_mask) and torch.equal(found.input_mask, live.input_mask)
    assert torch.equal(found.receives, live.receives)
    for ids, mask in (("knowledge_ids", "knowledge_mask"), ("input_ids", "input_mask")):
        where = getattr(live, mask)
        assert torch.equal(getattr(found, ids)[where], getattr(live, ids)[where])
    for name, where in (
        ("knowledge_states", live.knowledge_mask),
        ("states", live.input_mask),
        ("targets", live.receives),
    ):
        stored, exact = getattr(found, name)[:, where], getattr(live, name)[:, where]
        assert stored.dtype == torch.bfloat16
        torch.testing.assert_close(stored.float(), exact, rtol=2**-8, atol=1e-4)
    assert int(objective.count(batch)) == int(objective.count(live_batch))  # type: ignore[arg-type]
    with_cache, without = objective(**batch), objective(**live_batch)
    torch.testing.assert_close(with_cache.loss, without.loss, rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(with_cache.parts[:, :2], without.parts[:, :2], rtol=2e-2, atol=1e-3)


def test_differences_of_the_attention_encoder_cannot_be_cached(tmp_path: Path) -> None:
    model = make_model("attention")
    with pytest.raises(ValueError, match="a cache of differences saves nothing; leave cache out"):
        cache_at(tmp_path, model, Gather(model))


@pytest.mark.parametrize("objective_name", ["cross_entropy", "distill"])
@pytest.mark.parametrize("encoder", ["reader", "attention", "token"])
def test_a_loss_through_the_decoder_is_the_same_from_the_cache_without_reading_knowledge(
    tmp_path: Path, encoder: str, objective_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(encoder)
    with torch.no_grad():
        for parameter in model.bank.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    objective = OBJECTIVES[objective_name](model)
    if (objective_name, encoder) == ("cross_entropy", "token"):
        with pytest.raises(ValueError, match="encoder='token' reads embeddings alone"):
            cache_at(tmp_path, model, objective.keep)
        return
    cached = cache_at(tmp_path, model, objective.keep)
    chosen = [SHARD + 3, 0, COUNT - 1, 5]
    dataset = dataset_of(model, many_prompts())
    live = dataset.collate([dataset[number] for number in chosen])
    kept = cached.collate([cached[number] for number in chosen])
    assert torch.equal(kept["labels"], live["labels"])
    assert int(objective.count(kept)) == int(objective.count(live))  # type: ignore[arg-type]
    expected = objective(**live)
    widths: list[int] = []
    hook = model.decoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for module in ("cross_entropy", "reading"):
        monkeypatch.setattr(f"diekae.training.objectives.{module}.read_knowledge", None)
    found = objective(**kept)
    hook.remove()
    assert widths == [live["input_ids"].shape[1] - 1], "one run, over x alone; its last token predicts nothing"
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-2, atol=1e-3)
    assert found.loss.requires_grad


def test_a_finished_cache_is_reused_without_running_the_decoder(tmp_path: Path) -> None:
    model, gather = make_model(), Gather(make_model())
    first = cache_at(tmp_path, model, gather)
    assert gather.calls == 3
    again = cache_at(tmp_path, model, gather)
    assert gather.calls == 3
    assert torch.equal(first[7]["targets"], again[7]["targets"])


def test_progress_is_reported_after_each_shard(tmp_path: Path) -> None:
    model, seen = make_model(), list[tuple[int, int]]()
    collect_to_disk(
        tmp_path,
        dataset_of(model, many_prompts()),
        Gather(model),
        key={},
        limit_gb=1.0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(SHARD, COUNT), (2 * SHARD, COUNT), (COUNT, COUNT)]


@pytest.mark.parametrize("damage", ["deleted", "truncated", "emptied", "header", "flipped"])
def test_only_a_damaged_shard_is_collected_again(tmp_path: Path, damage: str) -> None:
    model, gather = make_model(), Gather(make_model())
    cache_at(tmp_path, model, gather)
    whole = [path.read_bytes() for path in shards(tmp_path)]
    path = shards(tmp_path)[1]
    flipped = whole[1][:-5] + bytes([whole[1][-5] ^ 1]) + whole[1][-4:]
    contents = {"truncated": whole[1][:-100], "emptied": b"", "header": whole[1][:40], "flipped": flipped}
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(contents[damage])
    cache_at(tmp_path, model, gather)
    assert gather.calls == 4
    assert [path.read_bytes() for path in shards(tmp_path)] == whole


def test_every_flipped_bit_of_a_shard_is_noticed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model, draw = make_model(), random.Random(0)
    gather = Gather(model)
    cache_at(tmp_path, model, gather)
    path = shards(tmp_path)[-1]
    whole = path.read_bytes()
    for _ in range(FUZZ):
        changed, place = bytearray(whole), draw.randrange(len(whole))
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        calls = gather.calls
        cache_at(tmp_path, model, gather)
        assert gather.calls == calls + 1 and path.read_bytes() == whole, place
    record_property("tries", FUZZ)


def test_a_shard_that_is_deleted_during_a_run_is_named(tmp_path: Path) -> None:
    model = make_model()
    cached = cache_at(tmp_path, model, Gather(model))
    shards(tmp_path)[1].unlink()
    with pytest.raises(OSError, match="shard-00001.*resume the run"):
        for number in range(COUNT):
            cached[number]


def test_an_interrupted_collection_continues_where_it_stopped(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        cache_at(tmp_path, model, Gather(model, dies_at=2))
    assert len(shards(tmp_path)) == 2
    rest = Gather(model)
    cache_at(tmp_path, model, rest)
    assert rest.calls == 1
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")], "temporary files were left"


def test_a_cache_over_its_limit_is_refused_and_removed(tmp_path: Path) -> None:
    model, gather = make_model(), Gather(make_model())
    with pytest.raises(ValueError, match="cache_limit_gb=0.0001"):
        cache_at(tmp_path, model, gather, limit_gb=0.0001)
    assert gather.calls == 1, "the first shard tells how large all of it will be"
    assert list(tmp_path.iterdir()) == []


def test_removing_a_cache_over_its_limit_leaves_other_caches(tmp_path: Path) -> None:
    model, gather = make_model(), Gather(make_model())
    cache_at(tmp_path, model, gather, decoder="one")
    with pytest.raises(ValueError, match="cache would take"):
        cache_at(tmp_path, model, gather, decoder="two", limit_gb=0.0001)
    assert len(shards(tmp_path)) == 3


def test_each_key_and_each_set_of_prompts_has_its_own_folder(tmp_path: Path) -> None:
    model, gather = make_model(), Gather(make_model())
    cache_at(tmp_path, model, gather, decoder="one")
    cache_at(tmp_path, model, gather, decoder="two")
    collect_to_disk(tmp_path, dataset_of(model, many_prompts(SHARD)), gather, key={"decoder": "one"}, limit_gb=1.0)
    assert gather.calls == 3 + 3 + 1
    assert len(list(tmp_path.iterdir())) == 3


def folders_after_training(tmp_path: Path, name: str, model: DiekaeModel, objective: str = "difference") -> int:
    config = TrainingConfig(
        objective=objective, max_steps=1, batch_size=4, evaluations=1, cache=str(tmp_path / "cache")
    )
    prompts = many_prompts(8)
    training_run.train(model, prompts, prompts[:4], config, tmp_path / name)
    return len(list((tmp_path / "cache").iterdir()))


def test_training_with_two_decoders_uses_two_caches(tmp_path: Path) -> None:
    one, two = make_decoder(seed=0), make_decoder(seed=1)
    assert fingerprint(one) != fingerprint(two)
    assert folders_after_training(tmp_path, "a", make_model(decoder=one)) == 2, "training and validation"
    assert folders_after_training(tmp_path, "b", make_model(decoder=one, seed=5)) == 2, "no bank is in the key"
    assert folders_after_training(tmp_path, "c", make_model(decoder=two)) == 4
    assert folders_after_training(tmp_path, "d", make_model(decoder=one, layers=(0, 1))) == 6


def test_trained_and_untrained_slots_use_two_caches(tmp_path: Path) -> None:
    """Rank 0 does not keep what the attention reads."""
    for number, rank in enumerate((0, None, 4), start=1):
        model = make_model("attention", encoder_options={"rank": rank, "mlp_width": 10})
        assert folders_after_training(tmp_path, str(rank), model, "distill") == 2 * min(number, 2)


def test_training_from_a_finished_cache_does_not_collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders_after_training(tmp_path, "a", make_model(normalize=False))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the decoder was run")

    monkeypatch.setattr(DifferenceObjective, "collect", refuse)
    folders_after_training(tmp_path, "b", make_model(normalize=False))


def test_differences_of_a_student_cannot_be_cached(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be cached"):
        folders_after_training(tmp_path, "a", make_model(rollout="student"))
