"""Banks on the hub: uploaded and downloaded whole, from a server on this machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
import torch
import yaml

from builders import bare_logits, largest_change, logits_of, make_decoder, make_model, make_tokenizer
from diekae import DiekaeModel
from diekae.checkpoint import CONFIG_NAME
from diekae.hub import model_card
from hub_server import Hub, only, running_hub

TEXT, QUESTION = "the castle was built by king four", "who built the castle"
RESULT: dict[str, Any] = {
    "recipe": {"data": {"train": [{"source": "dream"}, {"source": "facts"}]}, "stages": [{"objective": "distill"}]},
    "examples": {"train": 1200},
    "training_seconds": 90,
    "sets": {
        "dream": {
            "n": 80,
            "nll": {"bare": 3.61, "prompted": 2.5, "ours": 2.51},
            "recovered": 0.987,
            "grounded": None,
        }
    },
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        monkeypatch.chdir(tmp_path)
        yield hub


def model_of(hub: Hub, folder: Path, seed: int = 0) -> DiekaeModel:
    """Return a model whose decoder is in a folder and on the hub."""
    decoder = make_decoder()
    decoder.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    hub.create("user/decoder")
    hub.commit("user/decoder", "main", {path.name: path.read_bytes() for path in folder.iterdir()})
    decoder.config.name_or_path = str(folder)
    return make_model("attention", decoder=decoder, seed=seed)


def test_a_bank_comes_back_from_the_hub_with_the_decoder_that_it_names(hub: Hub, tmp_path: Path) -> None:
    model = model_of(hub, tmp_path / "decoder")
    address = model.push_to_hub("user/bank", base_model="user/decoder", private=True)
    assert address.startswith(f"{hub.url}/user/bank/commit/") and hub.private["user/bank"] == "private"
    assert str(tmp_path) not in hub.files("user/bank")[CONFIG_NAME].decode(), "paths of this machine stay here"
    loaded = DiekaeModel.from_pretrained("user/bank", dtype=torch.float32)
    assert loaded.decoder.config.name_or_path == "user/decoder"
    inputs = model.tokenize(QUESTION)
    assert torch.equal(logits_of(loaded, inputs, TEXT), logits_of(model, inputs, TEXT))
    assert largest_change(logits_of(loaded, inputs, TEXT), bare_logits(model, inputs)) > 0.1


def test_a_second_upload_replaces_the_first_and_a_revision_finds_each(hub: Hub, tmp_path: Path) -> None:
    model, other = (model_of(hub, tmp_path / "decoder", seed) for seed in (0, 1))
    first = model.push_to_hub("user/bank", base_model="user/decoder").rpartition("/")[2]
    before = only(hub.files("user/bank"), "bank-*")
    other.push_to_hub("user/bank", base_model="user/decoder")
    assert only(hub.files("user/bank"), "bank-*") != before, "the older weights are deleted"
    model.push_to_hub("user/bank", base_model="user/decoder", revision="half", dtype=torch.bfloat16)
    for revision, expected in ((None, other), (first, model), ("main", other)):
        loaded = DiekaeModel.from_pretrained("user/bank", model.decoder, model.tokenizer, revision=revision)
        state = expected.bank.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.bank.state_dict().items())
    assert len(hub.files("user/bank", "half")[only(hub.files("user/bank", "half"), "bank-*")]) < 0.7 * len(
        hub.files("user/bank")[only(hub.files("user/bank"), "bank-*")]
    )


def test_nothing_but_the_bank_is_downloaded(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(hub, tmp_path / "decoder")
    model.push_to_hub("user/bank", base_model="user/decoder")
    files = hub.files("user/bank")
    hub.commit(
        "user/bank", "main", {**files, "bank.pt": b"pickle", "modeling.py": b"code", "sub/bank-1.safetensors": b""}
    )
    DiekaeModel.from_pretrained("user/bank", model.decoder, model.tokenizer)
    weights = only(files, "bank-*")
    assert {f"user/bank/{CONFIG_NAME}", f"user/bank/{weights}"} <= set(hub.downloaded)
    assert not any(name.endswith((".pt", ".py", ".md")) for name in hub.downloaded)
    described = {**json.loads(files[CONFIG_NAME]), "weights": "bank.pt"}
    hub.commit("user/bank", "main", {"bank.pt": b"pickle", CONFIG_NAME: json.dumps(described).encode()})
    with pytest.raises(FileNotFoundError, match="bank.pt is missing"):
        DiekaeModel.from_pretrained("user/bank", model.decoder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.downloaded.clear()
    with pytest.raises(FileNotFoundError, match="bank.pt is missing"):
        DiekaeModel.from_pretrained("user/bank", model.decoder)
    assert not hub.downloaded, "offline, the cache serves"


def test_a_name_that_nothing_has_is_refused(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(hub, tmp_path / "decoder")
    with pytest.raises(FileNotFoundError, match="'user/none' is not a bank: there is no such folder, and the hub"):
        DiekaeModel.from_pretrained("user/none", model.decoder)
    model.push_to_hub("user/bank", base_model="user/decoder")
    with pytest.raises(FileNotFoundError, match="none of this name at revision 'v2'"):
        DiekaeModel.from_pretrained("user/bank", model.decoder, revision="v2")
    model.save_pretrained(tmp_path / "user" / "local")
    with pytest.raises(ValueError, match="revision='v2' is for a bank on the hub, and 'user/local' is none"):
        DiekaeModel.from_pretrained("user/local", model.decoder, revision="v2")
    DiekaeModel.from_pretrained("user/local", model.decoder)  # a folder goes first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE"):
        DiekaeModel.from_pretrained("user/other", model.decoder)


def test_a_decoder_that_others_cannot_load_is_refused(hub: Hub, tmp_path: Path) -> None:
    model = model_of(hub, tmp_path / "decoder")
    for base_model in (None, "./decoder", "a/b/c"):
        with pytest.raises(ValueError, match="pass the decoder's id on the hub: base_model='user/decoder'"):
            model.push_to_hub("user/bank", base_model=base_model)
    assert "user/bank" not in hub.branches
    model.decoder.config.name_or_path = "user/decoder"
    model.push_to_hub("bank")
    assert json.loads(hub.files("user/bank")[CONFIG_NAME])["decoder"]["name"] == "user/decoder"


def test_a_bank_whose_decoder_is_gone_says_which_one_to_pass(tmp_path: Path) -> None:
    decoder = make_decoder()
    decoder.config.name_or_path = str(tmp_path / "gone")
    model = make_model("attention", decoder=decoder)
    model.save_pretrained(tmp_path / "bank")
    with pytest.raises(ValueError) as raised:
        DiekaeModel.from_pretrained(tmp_path / "bank")
    message = str(raised.value)
    bank = str(tmp_path / "bank")
    for part in (
        f"made for the decoder {decoder.config.name_or_path!r} (fingerprint {model.bank.decoder})",
        f"DiekaeModel.from_pretrained({bank!r}, decoder, tokenizer)",
    ):
        assert part in message
    DiekaeModel.from_pretrained(bank, make_decoder(), make_tokenizer())


def test_the_card_has_metadata_and_the_figures_of_the_run(hub: Hub, tmp_path: Path) -> None:
    model = model_of(hub, tmp_path / "decoder")
    model.push_to_hub("user/bank", base_model="user/decoder", result=RESULT)
    card = hub.files("user/bank")["README.md"].decode()
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "base_model": "user/decoder",
        "library_name": "diekae",
        "pipeline_tag": "text-generation",
        "tags": ["diekae", "knowledge"],
    }
    assert "| dream | 80 | 3.61 | 2.50 | 2.51 | 0.99 | undefined |" in text
    assert "1,200 examples (dream, facts), 2 minutes. Objective: `distill`." in text
    assert 'from_pretrained("user/bank")' in text and "layers 0, 1, 2, 3" in text
    shipped = model_card("user/bank", "smollm2", "attention", (1, 2), 10)
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in shipped and "Held-out" not in shipped
