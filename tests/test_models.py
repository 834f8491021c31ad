"""Decoders by name: what is loaded, in which type, and what is refused."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from diekae import models
from diekae.models import load_decoder
from diekae.training.config import PRECISIONS
from test_architecture import RESEARCH, SOURCE


def test_unknown_name_says_what_was_expected_and_what_to_do():
    with pytest.raises(ValueError, match="no-such-owner/no-such-model") as raised:
        load_decoder("no-such-owner/no-such-model")
    message = str(raised.value)
    assert "'smollm2'" in message
    assert "save_pretrained" in message
    assert "HF_HUB_OFFLINE is set" in message
    assert raised.value.__cause__ is not None


def test_unknown_name_names_the_nearest_known_one():
    with pytest.raises(ValueError, match="Did you mean 'smollm2'"):
        load_decoder("smolm2")


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot load a decoder") as raised:
        load_decoder(str(tmp_path))
    assert "HF_HUB_OFFLINE" not in str(raised.value), "a folder that is there has nothing to do with the network"


@pytest.fixture(scope="module")
def saved_tiny(tiny_llama, tmp_path_factory):
    """A folder with the tiny model and a tokenizer that has no padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    tiny_llama.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<end>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    return folder


def test_a_base_model_without_its_head_is_refused(saved_tiny, tiny_llama, tmp_path):
    shutil.copytree(saved_tiny, tmp_path / "base")
    tiny_llama.model.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="has no weights for lm_head.weight, which would be random"):
        load_decoder(str(tmp_path / "base"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_decoder_loads_in_the_type_that_is_fast_unless_told(saved_tiny, monkeypatch, dtype):
    monkeypatch.setattr(models, "fast_dtype", lambda _device: dtype)
    assert load_decoder(str(saved_tiny))[0].dtype == dtype
    assert load_decoder(str(saved_tiny), dtype=torch.float16)[0].dtype == torch.float16


def test_bf16_is_fast_on_a_gpu_and_on_cpus_that_compute_in_it():
    assert models.fast_dtype("cuda") == torch.bfloat16
    able = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert models.fast_dtype("cpu") == models.fast_dtype() == (torch.bfloat16 if able else torch.float32)


def test_auto_is_one_type_per_device_and_every_name_has_a_type():
    for device in ("cpu", "cuda"):
        resolved = models.resolve_dtype("auto", device)
        assert models.DTYPES[resolved] == models.fast_dtype(device)
    for name in {*models.DTYPES, *PRECISIONS} - {"auto"}:
        assert models.resolve_dtype(name, "cuda") == name and models.DTYPES[name] is not None
    assert all(models.DTYPES[str(dtype).removeprefix("torch.")] == dtype for dtype in models.DTYPES.values() if dtype)


def test_folder_loads_in_eval_mode_with_a_padding_token(saved_tiny):
    assert AutoTokenizer.from_pretrained(saved_tiny).pad_token is None, "otherwise this test shows nothing"
    decoder, tokenizer = load_decoder(str(saved_tiny), device="cpu")
    assert not decoder.training
    assert tokenizer.pad_token == "<end>"
    assert decoder.generation_config.pad_token_id == 1


def test_dtype_is_obeyed(saved_tiny, tiny_llama):
    decoder, _ = load_decoder(str(saved_tiny), dtype=torch.float32)
    ids = torch.arange(1, 9)[None]
    assert torch.equal(decoder(ids).logits, tiny_llama(ids).logits)


FOREIGN_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path(__file__).with_name("ran").touch()
Path({marker!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("part", ["config", "tokenizer"])
def test_code_in_a_models_folder_is_never_run_and_nobody_is_asked(saved_tiny, tmp_path, monkeypatch, part):
    folder, marker = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(saved_tiny, folder)
    (folder / "own.py").write_text(FOREIGN_CODE.format(marker=str(marker)))
    if part == "config":
        names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        change_json(folder / "config.json", auto_map=names, model_type="own", architectures=["OwnModel"])
    else:
        change_json(
            folder / "tokenizer_config.json",
            auto_map={"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
            tokenizer_class="OwnTokenizer",
        )
    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append(1) or "y")
    try:
        load_decoder(str(folder))
    except ValueError as error:
        assert "needs code of its own, which diekae does not run" in str(error)
        assert "trust_remote_code=True" in str(error)
    else:
        assert part == "tokenizer", "a tokenizer may be loaded without its code"
    assert not asked
    assert not marker.exists()


def test_pickled_weights_are_not_opened(saved_tiny, tmp_path):
    folder = Path(shutil.copytree(saved_tiny, tmp_path / "pickled"))
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        load_decoder(str(folder))


def test_every_loader_says_no_to_remote_code():
    paths = [path for root in (SOURCE, RESEARCH) for path in root.rglob("*.py")]
    loads = [
        (path.name, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("Auto")
        and "from_" in ast.unparse(node.func)
    ]
    assert len(loads) >= 4
    for name, node in loads:
        text = ast.unparse(node)
        assert "trust_remote_code=False" in text or "**options" in text, f"{name}: {text}"


def test_the_missing_package_of_a_quantised_decoder_is_named(saved_tiny, tmp_path):
    shutil.copytree(saved_tiny, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "aqlm"}}))
    with pytest.raises(ValueError, match="cannot load a decoder from .*requires AQLM: `pip install aqlm"):
        load_decoder(str(tmp_path / "model"))


def test_a_damaged_weights_file_is_named(saved_tiny, tmp_path):
    shutil.copytree(saved_tiny, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot load a decoder from .*model"):
        load_decoder(str(tmp_path / "model"))


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
