"""The benchmarks on a tiny decoder: what is compared is what it says, and what is counted is what runs."""

import json
import math
from typing import Any

import pytest
import torch
from builders import make_decoder
from torch.nn import functional as F

from diekae.bench import BENCHMARKS, Bench, Row, floor, run_benchmark
from diekae.bench.inference import curve, exponent
from diekae.bench.plots import draw_growth
from diekae.bench.setting import copied, llama2_7b, random_cache, time_in_turn
from diekae.prepare import read_documents

LAYERS = {"token": (0, 1), "reader": (1, 3), "attention": (1, 3)}


@pytest.fixture(scope="module")
def bench() -> Bench:
    decoder = make_decoder(max_position_embeddings=1024)
    decoder.config.name_or_path = ""
    return Bench(decoder, LAYERS, lengths=(8, 128), inputs=6, rounds=1)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmark_measures_its_rows(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diekae.bench.memory.LENGTH", 64)
    for sizes in ("STEP", "EPOCH", "FINE"):
        monkeypatch.setattr(f"diekae.bench.train.{sizes}", {"rows": 2, "knowledge": 16, "target": 3})
    found = json.loads(json.dumps(run_benchmark(name, bench), allow_nan=False))
    measured = [row for row in found["rows"] if row["figure"] is not None]
    assert measured and all(row["figure"] > 0 for row in measured if "peak" not in row["name"])
    assert any("LLaMA2-7B" in row["name"] for row in found["rows"])
    assert all(row["floor"] is None or row["floor"] > 0 for row in found["rows"])
    if found.get("curves"):
        assert len(draw_growth(found).axes) == len(found["curves"])


def test_an_unknown_benchmark_is_named(bench: Bench) -> None:
    with pytest.raises(ValueError, match="choose one of inference, decode, prepare, train, memory"):
        run_benchmark("speed", bench)


def test_a_row_knows_whether_its_aim_is_reached() -> None:
    assert Row("", 0.5, 0.4).reached and not Row("", 0.5, 0.6).reached
    assert Row("", 3.0, 4.0, at_least=True).reached and not Row("", 3.0, 2.0, at_least=True).reached
    assert Row("", 0.5, None).reached is None and Row("", None, 0.5).reached is None


@pytest.mark.parametrize("name", ["token", "reader", "attention"])
def test_a_random_memory_is_like_a_real_one(bench: Bench, name: str) -> None:
    model = bench.model(name)
    (real,) = read_documents(model.bank, bench.decoder, model.points, model.anchor, bench.ids(9).tolist())
    fake = bench.memory(model, 9)
    assert {n: (t.shape, t.dtype) for n, t in real.tensors.items()} == {
        n: (t.shape, t.dtype) for n, t in fake.tensors.items()
    }
    assert (real.position, real.bank) == (fake.position, fake.bank)
    bare, ours = bench.bare(bench.ids(6))(), model(bench.ids(6), knowledge=fake, use_cache=False)
    assert not torch.equal(bare.logits[:, -1], ours.logits[:, -1]), "an identity would be no work"


def test_a_random_cache_is_like_a_real_one(bench: Bench) -> None:
    real = bench.decoder(input_ids=bench.ids(9), use_cache=True).past_key_values
    fake = random_cache(bench.decoder, 9)
    assert [layer.keys.shape for layer in real.layers] == [layer.keys.shape for layer in fake.layers]
    twin = copied(fake)
    bench.decoder(input_ids=bench.ids(2), past_key_values=twin, use_cache=True)
    assert (twin.get_seq_length(), fake.get_seq_length()) == (11, 9), "a copy grows alone"


def test_operations_are_those_of_the_products() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert floor.operations(lambda: a @ b) == 2 * 3 * 5 * 7
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 9, 8)
    assert floor.operations(lambda: F.scaled_dot_product_attention(q, k, k)) == 2 * (2 * 4 * 9 * 8) * 2
    weight = torch.randn(5, 7, requires_grad=True)
    assert floor.operations(lambda: (a @ weight).sum().backward(), gradients=True) == 2 * (2 * 3 * 5 * 7)


@pytest.mark.parametrize("name", ["token", "reader"])
def test_what_is_counted_by_parts_is_what_runs(bench: Bench, name: str) -> None:
    model, memory = bench.model(name), bench.memory(bench.model(name), 20)
    parts = floor.decoder_pass(bench.decoder, 6) + floor.bank_pass(model, 6, 20)
    whole = floor.operations(lambda: model(bench.ids(6), knowledge=memory, use_cache=False, logits_to_keep=1))
    assert whole == parts
    states = 0 if name == "token" else floor.states_pass(model, 21)
    ids = bench.ids(20).tolist()
    run = floor.operations(lambda: read_documents(model.bank, bench.decoder, model.points, model.anchor, ids))
    assert run == states + floor.bank_prepare(model, 20)


def test_llama_is_counted_without_weights() -> None:
    decoder = llama2_7b()
    assert decoder.device.type == "meta" and sum(p.numel() for p in decoder.parameters()) == 6_738_415_616
    # By hand: projections and MLP of 32 blocks, scores and their use, the head at one column.
    block = 4 * 4096 * 4096 + 3 * 4096 * 11008
    assert floor.decoder_pass(decoder, 32) == 2 * 32 * (32 * block + 2 * 32 * 32 * 4096) + 2 * 4096 * 32000
    model = Bench(decoder).model("token")
    assert sum(p.numel() for p in model.bank.parameters()) == 6 * 2_098_304, "the paper's encoder, design.md 4"
    assert floor.cache_bytes(decoder, 1) == 512 * 1024


def test_live_bytes_are_those_held_at_once() -> None:
    def call() -> torch.Tensor:
        one = torch.zeros(1000)
        two = one + 1
        del one
        return two + two[:1]

    assert floor.peak_bytes(call) == 8000
    assert floor.peak_bytes(lambda: torch.zeros(10, device="meta")[2:].t()) == 40


def test_ways_take_turns_and_only_the_second_of_a_pair_is_timed() -> None:
    seen: list[str] = []
    ways: dict[str, Any] = {
        "slow": lambda: [seen.append("slow"), sum(range(300_000))],
        "fast": (lambda: sum(range(600_000)), lambda _: seen.append("fast")),
    }
    found = time_in_turn(ways, 3)
    assert seen == ["slow", "fast"] * 4
    assert found["slow"] > found["fast"]


def test_exponents_are_slopes() -> None:
    assert exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2)
    assert exponent([1, 2], [1.0, -1.0]) is None and exponent([1], [1.0]) is None
    found = curve([1, 2, 4], {"bare": [1.0, 1.0, 1.0], "ours": [2.0, 3.0, 5.0]})
    assert found["exponent_added"]["ours"] == pytest.approx(1) and math.isclose(found["exponent"]["bare"], 0)
