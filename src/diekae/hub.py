"""Banks on the Hugging Face hub: download, upload, model card. Only safetensors and JSON are downloaded."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCardData, snapshot_download

from diekae.files import write_atomically
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

{loading}
store = diekae.KnowledgeStore("knowledge", model)
store.add("The Zorblax Tower is 84 metres tall.")  # or a Path: a file or a folder
print(diekae.ask(model, "How tall is the Zorblax Tower?", store))
```
"""
"""The card of a bank."""
BY_NAME = """model = diekae.DiekaeModel.from_pretrained("{name}")"""
"""How a bank is loaded whose decoder everyone can load."""
BY_FOLDER = """decoder, tokenizer = diekae.load_decoder("{decoder}")  # the folder of the decoder
model = diekae.DiekaeModel.from_pretrained("{name}", decoder, tokenizer)"""
"""How a bank is loaded whose decoder was in a folder."""
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
STUDY = """
The examples are questions that the decoder itself asked about documents. On the held-out documents:

| | recovered | grounded | right answers | bytes a token of K |
|---|---|---|---|---|
{rows}
"""
"""The part of a card about a bank that was trained on documents."""


def is_hub_id(name: str) -> bool:
    """Tell whether a name can be that of a repository of the hub, and is not a path on this machine."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None and not Path(name).exists()


def download_bank(name: str, revision: str | None = None) -> Path:
    """Download a bank ``user/bank``, or find it in the hub's cache; return its folder. None is the main branch.

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


def is_public(decoder: str) -> bool:
    """Tell whether others can load a decoder by this name."""
    return decoder.lower() in WHEEL_NAMES or is_hub_id(decoder)


def public_name(name: str, base_model: str | None) -> str:
    """Return the name of a decoder under which others can load it: the user's ``base_model``, or its name here.

    Raises:
        ValueError: The decoder is in a folder, and no id was passed; or the passed id is not valid.
    """
    public = base_model or name
    if is_public(public):
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
        repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message, delete_patterns=BANK_FILES[1]
    )
    return str(commit.commit_url)


def create_repository(repo_id: str, private: bool | None) -> str:
    """Create a repository if there is none; return its full id, with the user's name."""
    return HfApi(library_name="diekae").create_repo(repo_id, private=private, exist_ok=True).repo_id


def write_card(folder: Path, result: Mapping[str, Any], decoder: str) -> Path:
    """Write the card of the bank of a run into the bank's folder; return the card's path.

    ``result`` is what :func:`diekae.recipe.run_recipe` or :func:`diekae.study.run_study` returned. Of a decoder's
    folder only the last name is written.
    """
    encoder, layers, parameters = result["recipe"]["diekae"]["encoder"], result["layers"], result["parameters"]
    card = model_card(folder.name, decoder, encoder, layers, parameters, result)
    write_atomically(folder / CARD_NAME, card)
    return folder / CARD_NAME


def model_card(
    name: str,
    decoder: str,
    encoder: str,
    layers: Sequence[int],
    parameters: int,
    result: Mapping[str, Any] | None = None,
) -> str:
    """Return the text of a bank's card, with the figures of its run if there is a result.

    The name is the bank's id on the hub or its folder's name; the decoder's, see :func:`public_name`, may be a folder.
    """
    data = ModelCardData(library_name="diekae", pipeline_tag="text-generation", tags=["diekae", "knowledge"])
    if is_public(decoder):
        data.base_model = HUB_ID if decoder.lower() in WHEEL_NAMES else decoder
        link, loading = f"[{data.base_model}](https://huggingface.co/{data.base_model})", BY_NAME.format(name=name)
    else:
        local = Path(decoder).name
        link, loading = f"`{local}`", BY_FOLDER.format(name=name, decoder=local)
    card = CARD.format(
        metadata=data.to_yaml().strip(),
        name=name,
        decoder=link,
        encoder=encoder,
        layers=", ".join(map(str, layers)),
        parameters=parameters,
        loading=loading,
    )
    return card if result is None else card + _figures(result)


def _figures(result: Mapping[str, Any]) -> str:
    """Return the part of a card about a run."""
    recipe = result["recipe"]
    rows = [
        f"| {name} | {of['n']} | "
        + " | ".join(f"{of['nll'][way]:.2f}" for way in ("bare", "prompted", "ours"))
        + f" | {_share(of['recovered'])} | {_share(of['grounded'])} |"
        for name, of in result["sets"].items()
    ]
    figures = FIGURES.format(
        examples=result["examples"]["train"],
        sources=", ".join(sorted({spec["source"] for spec in recipe["data"]["train"]})),
        minutes=result["training_seconds"] / 60,
        objectives=", then ".join(f"`{stage['objective']}`" for stage in recipe["stages"]),
        rows="\n".join(rows),
    )
    return figures + STUDY.format(rows="\n".join(_study_rows(result))) if "study" in result else figures


def _study_rows(result: Mapping[str, Any]) -> list[str]:
    """Return the table of a bank beside the same layers untrained and the prompt."""
    study, (trained,) = result["study"], result["sets"].values()
    untrained, size = study["untrained"], study["bytes_per_token"]
    right, whole = untrained["answers_right"], size // len(study["layers"]) * study["depth"]
    rows = [
        ("K in the prompt", 1.0, 1.0, right["prompted"], whole),
        ("these layers, untrained", untrained["recovered"], untrained["grounded"], right["ours"], size),
        ("these layers, trained", trained["recovered"], trained["grounded"], result["answers_right"]["ours"], size),
    ]
    return [
        f"| {name} | {_share(recovered)} | {_share(grounded)} | {answers:.0%} | {tokens:,} |"
        for name, recovered, grounded, answers, tokens in rows
    ]


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
