"""What the documentation shows is run: its curl lines, and other frameworks' clients."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from served import Serve, Served
from tiny_served_model import SHIP

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_curl_lines_work(serve: Serve, tmp_path: Path) -> None:
    server = serve(edits=tmp_path / "edits")
    (script,) = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert script.count("curl") > 10
    script = script.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "data: [DONE]" in done.stdout and "tower.txt" in done.stdout and "diekae_stage_seconds" in done.stdout


def test_the_limits_are_those_of_the_code() -> None:
    from diekae.serve import EngineOptions, ServerOptions

    text, options, engine = DOCS.read_text(), ServerOptions(), EngineOptions()
    for line in (
        f"| answers at once, waiting | {engine.batch_size}, {engine.queue_size} |",
        f"| tokens of an answer | {options.most_tokens:,} |",
        f"| tokens of a document, and of what one request reads | {options.most_knowledge:,} |",
        f"| seconds of a request | {options.timeout:g} |",
        f"| bytes of a body, of a file | {options.most_body // 10**6} MB, {options.most_file // 10**6} MB |",
        f"| files that wait to be prepared | {options.most_waiting_files:,} |",
    ):
        assert line in text, line


def test_langchain(server: Served) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        model="tiny",
        max_tokens=8,
        extra_body={"knowledge": {"text": SHIP}},
    )
    answer = model.invoke("Who was the captain?")
    assert answer.content and answer.usage_metadata["input_token_details"]["cache_read"] > 40
    assert "".join(chunk.content for chunk in model.stream("Who was the captain?")) == answer.content


def test_llama_index(server: Served) -> None:
    llama_index = pytest.importorskip("llama_index.llms.openai_like")
    model = llama_index.OpenAILike(
        api_base=f"{server.url}/v1", api_key="none", model="tiny", is_chat_model=True, max_tokens=8, temperature=0,
        additional_kwargs={"extra_body": {"knowledge": {"text": SHIP}}},
    )  # fmt: skip
    answer = model.complete("Who was the captain?")
    assert answer.text and answer.raw.model_extra["knowledge"]["tokens"] > 40
    *_, last = model.stream_complete("Who was the captain?")
    assert last.text == answer.text
