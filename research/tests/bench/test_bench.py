"""The benchmarks on a tiny decoder: ways are equal work, and counts agree with what runs."""

import importlib
import json
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from builders import make_decoder
from diekae import DiekaeConfig, DiekaeModel
from diekae.inject.cache import forked
from diekae.inject.slots import slots_of_layers
from diekae.knowledge import batch_knowledge
from diekae.prepare import read_documents
from diekae.run.timing import time_in_turn
from diekae_research.bench import BENCHMARKS, Bench, counters, floor, run_benchmark
from diekae_research.bench.llama import llama2_7b, llama2_7b_bank
from diekae_research.bench.setting import Comparison, random_cache, static_cache

LAYERS = {"token": (0, 1), "reader": (1, 3), "attention": (1, 3)}
NAMES = ("token", "reader", "attention", "exact")


@pytest.fixture(scope="module")
def bench() -> Bench:
    decoder = make_decoder(max_position_embeddings=1024)
    decoder.config.name_or_path = ""
    return Bench(decoder, LAYERS, lengths=(8, 128), inputs=6, rounds=1)


@pytest.fixture(scope="module")
def bench_with_bank(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The same with a bank of one layer and an anchor of three tokens."""
    folder = tmp_path_factory.mktemp("bank")
    options = {"rank": 2, "mlp_width": 8}
    config = DiekaeConfig(layers=(2,), encoder="attention", site="attention", encoder_options=options)
    model = DiekaeModel(bench.decoder, config)
    model.anchor = (1, 5, 6)
    model.save_pretrained(folder)
    return Bench(bench.decoder, LAYERS, lengths=(8, 128), inputs=6, rounds=1, bank=folder)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_benchmark_measures_its_rows(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diekae_research.bench.memory.LENGTH", 64)
    for sizes in ("STEP", "EPOCH", "FINE"):
        monkeypatch.setattr(f"diekae_research.bench.train.{sizes}", {"rows": 2, "knowledge": 16, "target": 3})
    result = json.loads(json.dumps(run_benchmark(name, bench), allow_nan=False))
    measured = [row for row in result["rows"] if row["figure"] is not None]
    assert measured and all(row["figure"] > 0 for row in measured)
    assert any("LLaMA2-7B" in row["name"] for row in result["rows"])
    assert all(row["floor"] is None or row["floor"] > 0 for row in result["rows"])


@pytest.mark.parametrize("name", ["inference", "decode", "prepare"])
def test_a_users_bank_is_measured_too(bench_with_bank: Bench, name: str) -> None:
    result = run_benchmark(name, bench_with_bank)
    assert result["banks"]["bank"]["layers"] == [2] and result["anchor"] == 3
    aims = {row["name"]: row["aim"] for row in result["rows"] if ", bank, " in row["name"]}
    if name == "inference":
        assert aims == {
            "pass over x, bank, |K| 128, against D(x)": 1.04,
            "pass over x, bank, |K| 8, against a cached prefix": 1.0,
            "pass over x, bank, |K| 128, against a cached prefix": 1.0,
            "pass over x, bank, |K| 128, against a cached prefix of fixed size": None,
        }
    if name == "decode":
        assert aims["generated token, bank, |K| 128, against a cached prefix"] == 1.0
    assert all(row["figure"] > 0 for row in result["rows"] if row["name"] in aims)


@pytest.mark.parametrize("name", ["inference", "decode"])
def test_all_ways_read_the_same_question(bench_with_bank: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way's columns: those that the decoder reads, those in its cache afterwards, and those of the head."""
    module = importlib.import_module(f"diekae_research.bench.{name}")
    seen: list[tuple[int, int, int]] = []

    # Not by a hook: where there are any, a bank in fewer layers reads more.
    forward = bench_with_bank.decoder.forward

    def noted(**options: Any) -> Any:
        output = forward(**options)
        seen.append((options["input_ids"].shape[1], int(output.cache.get_seq_length()), output.logits.shape[1]))
        return output

    monkeypatch.setattr(bench_with_bank.decoder, "forward", noted)
    result = {}
    for way, run in module.ways(bench_with_bank, 8).items():
        seen.clear()
        with torch.no_grad():
            run() if callable(run) else run[1](run[0]())
        result[way] = list(seen)
    a, k, x, steps = 3, 8, 6, module.TOKENS if name == "decode" else 0
    ours = [(a + x, a + x, 1), *((1, a + x + n, 1) for n in range(1, steps + 1))]
    without_anchor = [(x, a + x, 1)] if name == "inference" else ours
    for way in bench_with_bank.names:
        assert result[way] == (without_anchor if way in bench_with_bank.ours else ours), result
    if name == "inference":
        assert result["bare"] == ours
        assert result["prompted_cached"] == result["prompted_static"] == [(x, a + k + x, 1)]
    else:
        assert result["bare"] == ours[1:]
        assert result["prompted_cached"] == result["prompted_static"]
        assert result["prompted_cached"] == [(1, a + k + x + n, 1) for n in range(1, steps + 1)]


def test_a_comparison_tells_whether_its_aim_is_reached() -> None:
    assert Comparison("", 0.5, 0.4).reached and not Comparison("", 0.5, 0.6).reached
    assert Comparison("", 3.0, 4.0, at_least=True).reached and not Comparison("", 3.0, 2.0, at_least=True).reached
    assert Comparison("", 0.5, None).reached is None and Comparison("", None, 0.5).reached is None


@pytest.mark.parametrize("name", NAMES)
def test_random_prepared_knowledge_has_the_form_of_real(bench: Bench, name: str) -> None:
    model = bench.model(name)
    (real,) = read_documents(model.attached, model.anchor, bench.ids(9).tolist())
    fake = bench.prepared(model, 9)
    forms = [
        [{name: (t.shape, t.dtype) for name, t in tensors.items()} for tensors in (prepared.tensors, prepared.anchor)]
        for prepared in (fake, real)
    ]
    assert forms[0] == forms[1]
    if model.attached.by_attention:  # the layout of slots decides how fast they are read
        assert [t.stride() for t in fake.tensors.values()] == [t.stride() for t in real.tensors.values()]
        assert torch.equal(fake.positions, real.positions)
    assert (real.token_count, real.bank, real.anchor_ids) == (fake.token_count, fake.bank, fake.anchor_ids)
    ids = bench.question()
    bare, ours = bench.bare(ids)(), model(ids, knowledge=fake, use_cache=False)
    assert not torch.equal(bare.logits[:, -1], ours.logits[:, -1]), "a bank that changes nothing could do less work"


def test_a_random_cache_has_the_form_of_a_real_one(bench: Bench) -> None:
    real = bench.decoder(input_ids=bench.ids(9), use_cache=True).cache
    fake = random_cache(bench.decoder, 9)
    assert [layer.keys.shape for layer in real.layers] == [layer.keys.shape for layer in fake.layers]
    twin = forked(fake)
    bench.decoder(input_ids=bench.ids(2), cache=twin, use_cache=True)
    assert (twin.get_seq_length(), fake.get_seq_length()) == (11, 9), "a copy grows without the original"
    ids, static = bench.ids(2), static_cache(bench.decoder, fake, 2)
    both = [bench.decoder(input_ids=ids, cache=cache).logits for cache in (forked(fake), static)]
    assert torch.allclose(*both, atol=1e-4) and int(static.get_seq_length()) == 11


def test_operations_are_those_of_the_products() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert counters.operations(lambda: a @ b) == 2 * 3 * 5 * 7
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 9, 8)
    assert counters.operations(lambda: F.scaled_dot_product_attention(q, k, k)) == 2 * (2 * 4 * 9 * 8) * 2
    weight = torch.randn(5, 7, requires_grad=True)
    assert counters.operations(lambda: (a @ weight).sum().backward(), gradients=True) == 2 * (2 * 3 * 5 * 7)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_add_up_to_the_whole_pass(bench: Bench, name: str) -> None:
    model, prepared = bench.model(name), bench.prepared(bench.model(name), 20)
    ids, attached = bench.question(), bench.model(name).attached
    parts = floor.decoder_pass(bench.decoder, 7) + floor.bank_pass(attached, 7, 20)
    whole = counters.operations(lambda: model(ids, knowledge=prepared, use_cache=True, logits_to_keep=1))
    assert whole == parts
    states = 0 if name == "token" else floor.states_pass(attached, 21)
    known = bench.ids(20).tolist()
    run = counters.operations(lambda: read_documents(attached, model.anchor, known))
    # For layers without slots the decoder reads the anchor once more.
    stack, first = bench.decoder.get_decoder(), bench.ids(1)
    again = counters.operations(lambda: stack(input_ids=first, use_cache=True)) if name == "attention" else 0
    assert run == states + floor.bank_prepare(attached, 20) + again
    of_anchor = [*prepared.anchor.values(), *prepared.bare_anchor.values()]
    assert prepared.nbytes - sum(tensor.nbytes for tensor in of_anchor) == 20 * floor.slot_bytes(attached)


def test_a_generated_token_is_counted_too(bench: Bench) -> None:
    for name in ("attention", "exact"):
        model, prepared, ids = bench.model(name), bench.prepared(bench.model(name), 20), bench.question()
        with model.call_context(prepared, ids):
            cache = bench.decoder(input_ids=ids, use_cache=True).cache
            token = counters.operations(
                lambda cache=cache: bench.decoder(input_ids=bench.ids(1), cache=cache, use_cache=True)
            )
        assert token == floor.decoder_pass(bench.decoder, 1, 7) + floor.bank_pass(model.attached, 1, 20)


def test_a_generated_token_reads_no_weights_for_k(bench: Bench) -> None:
    assert floor.answer_bytes(bench.model("exact").attached) == 0
    attention: Any = bench.model("attention").bank.encoder
    maps = floor.weight_bytes(attention.keys) + floor.weight_bytes(attention.values)
    assert floor.answer_bytes(bench.model("attention").attached) == floor.weight_bytes(attention) - maps > 0


def test_the_peak_of_a_pass_includes_the_joined_slots_of_one_layer(bench: Bench) -> None:
    model = bench.model("exact")
    prepared = bench.prepared(model, 200)
    slots = slots_of_layers(batch_knowledge([prepared]))[0]
    columns = [part[0].new_zeros(1, part[0].shape[1], 6, part[0].shape[3]) for part in slots.parts]
    with torch.no_grad():
        joined = sum(tensor.nbytes for tensor in slots.joined(*columns))
        ids = bench.ids(7)
        peak = counters.peak_bytes(lambda: model(ids, knowledge=prepared))
    assert floor.bank_peak(model.attached, 7, 200) == joined  # 200 of K, 1 of the anchor, 6 of x
    assert joined < peak < 2 * joined < prepared.nbytes, "no pass keeps the joined slots of all layers"


def test_llama_is_counted_without_weights() -> None:
    decoder = llama2_7b()
    assert decoder.device.type == "meta" and sum(p.numel() for p in decoder.parameters()) == 6_738_415_616
    # By hand: projections and MLP of 32 blocks, scores and their use, the head at one column.
    block = 4 * 4096 * 4096 + 3 * 4096 * 11008
    assert floor.decoder_pass(decoder, 32) == 2 * 32 * (32 * block + 2 * 32 * 32 * 4096) + 2 * 4096 * 32000
    token = llama2_7b_bank(decoder, "token").bank
    assert sum(p.numel() for p in token.parameters()) == 6 * 2_098_304, "the paper's encoder"
    assert floor.cache_bytes(decoder, 1) == floor.slot_bytes(llama2_7b_bank(decoder, "exact")) == 512 * 1024
    attention = llama2_7b_bank(decoder, "attention")
    assert attention.bank.layers == tuple(range(1, 32, 2)) and floor.slot_bytes(attention) == 256 * 1024
    # By hand: for each of 16 layers and 33 columns 128 slots and the anchor's twice, and the MLP's five products.
    thought = 4096 * 64 + 4096 * 64 + 2 * 128 * 64 + 64 * 4096
    assert floor.bank_pass(attention, 33, 128) == 2 * 16 * 33 * (2 * 129 * 4096 + thought)


def test_peak_bytes_are_those_held_at_once() -> None:
    def call() -> torch.Tensor:
        one = torch.zeros(1000)
        two = one + 1
        del one
        return two + two[:1]

    assert counters.peak_bytes(call) == 8000
    assert counters.peak_bytes(lambda: torch.zeros(10, device="meta")[2:].t()) == 40


def test_ways_are_timed_in_turn_and_of_a_pair_only_the_second() -> None:
    seen: list[str] = []
    ways: dict[str, Any] = {
        "slow": lambda: [seen.append("slow"), sum(range(300_000))],
        "fast": (lambda: sum(range(600_000)), lambda _: seen.append("fast")),
    }
    result = time_in_turn(ways, 3)
    assert seen == ["slow", "fast"] * 4
    assert result["slow"] > result["fast"]
