"""Banks on the Hugging Face hub: download, upload, model card. Only safetensors and JSON are downloaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCardData, snapshot_download

from diekae.smollm2 import HUB_ID, WHEEL_NAMES

BANK_FILES = ("config.json", "bank-*.safetensors")
"""The files of a bank."""
CARD_NAME = "README.md"
CARD = """---
{metadata}
---

# {name}

A bank of encoders for the frozen decoder {decoder}. With it, DIEKÆ gives the decoder knowledge that is not in its
prompt. {parameters:,} parameters: `{encoder}` encoders at layers {layers}. The bank fits this decoder only.

```python
import diekae

model = diekae.DiekaeModel.from_pretrained("{name}")
store = diekae.KnowledgeStore("knowledge", model)
store.add("The Zorblax Tower is 84 metres tall.")  # or a Path: a file or a folder
print(diekae.ask(model, "How tall is the Zorblax Tower?", store))
```
"""
"""The card of a bank."""
FIGURES = """
## Training

{examples:,} examples ({sources}), {minutes:.0f} minutes. Objective: {objectives}.

## Held-out data

| data | n | D(x) | D(K, x) | ours | recovered | grounded |
|---|---|---|---|---|---|---|
{rows}

Nats per target token. D(x): without knowledge. D(K, x): with the knowledge in the prompt. Recovered: the share of the
gap between them that is closed. Grounded: the same for what the knowledge says.
"""
"""The part of a card about a run."""


def is_hub_id(name: str) -> bool:
    """Tell whether a name can be that of a repository of the hub, and is not a path on this machine."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None and not Path(name).exists()


def download_bank(name: str, revision: str | None = None) -> Path:
    """Download a bank, or find it in the hub's cache; return its folder.

    Args:
        name: ``user/bank``.
        revision: Branch, tag or commit; the main branch if None.

    Raises:
        FileNotFoundError: It cannot be downloaded.
    """
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(BANK_FILES)))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        at = f" at revision {revision!r}" if revision else ""
        raise FileNotFoundError(
            f"{name!r} is not a bank: there is no such folder, and the hub has none of this name{at} or cannot be "
            f"reached. The hub's error: {reason}"
        ) from error


def public_name(name: str, base_model: str | None) -> str:
    """Return the name of a decoder under which others can load it.

    Args:
        name: Its name here, perhaps a folder.
        base_model: Its id on the hub, if the user passed it.

    Raises:
        ValueError: The decoder is in a folder, and no id was passed; or the passed id is not valid.
    """
    public = base_model or name
    if public.lower() in WHEEL_NAMES or is_hub_id(public):
        return public
    raise ValueError(
        f"{public!r} is not the name of a decoder that others can load; pass the decoder's id on the hub: "
        "base_model='user/decoder'."
    )


def upload_bank(folder: Path, repo_id: str, revision: str | None, message: str) -> str:
    """Upload a bank's folder in one commit, in place of an older bank; return the address of the commit."""
    api = HfApi(library_name="diekae")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        revision=revision,
        commit_message=message,
        delete_patterns=BANK_FILES[1],
    )
    return str(commit.commit_url)


def create_repository(repo_id: str, private: bool | None) -> str:
    """Create a repository if there is none; return its full id, with the user's name."""
    return HfApi(library_name="diekae").create_repo(repo_id, private=private, exist_ok=True).repo_id


def model_card(
    name: str,
    decoder: str,
    encoder: str,
    layers: Sequence[int],
    parameters: int,
    result: Mapping[str, Any] | None = None,
) -> str:
    """Return the text of a bank's card.

    Args:
        name: The bank's id on the hub.
        decoder: The decoder's name, see :func:`public_name`.
        encoder: The encoders' name.
        layers: Their layers.
        parameters: The bank's parameters.
        result: What :func:`diekae.recipe.run_recipe` returned; its figures are shown.
    """
    base_model = HUB_ID if decoder.lower() in WHEEL_NAMES else decoder
    data = ModelCardData(
        base_model=base_model, library_name="diekae", pipeline_tag="text-generation", tags=["diekae", "knowledge"]
    )
    card = CARD.format(
        metadata=data.to_yaml().strip(),
        name=name,
        decoder=f"[{base_model}](https://huggingface.co/{base_model})",
        encoder=encoder,
        layers=", ".join(map(str, layers)),
        parameters=parameters,
    )
    return card if result is None else card + _figures(result)


def _figures(result: Mapping[str, Any]) -> str:
    """Return the part of a card about a run."""
    recipe = result["recipe"]
    rows = [
        f"| {name} | {of['n']} | "
        + " | ".join(f"{of['nll'][way]:.2f}" for way in ("bare", "prompted", "ours"))
        + "".join(
            f" | {'undefined' if of[share] is None else format(of[share], '.2f')}"
            for share in ("recovered", "grounded")
        )
        + " |"
        for name, of in result["sets"].items()
    ]
    return FIGURES.format(
        examples=result["examples"]["train"],
        sources=", ".join(sorted({spec["source"] for spec in recipe["data"]["train"]})),
        minutes=result["training_seconds"] / 60,
        objectives=", then ".join(f"`{stage['objective']}`" for stage in recipe["stages"]),
        rows="\n".join(rows),
    )
