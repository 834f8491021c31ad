"""The banks that come with the package."""

from pathlib import Path

import pytest
import torch

from diekae import DiekaeModel
from diekae.answering import reply as answer
from diekae.checkpoint import load_bank, shipped_banks

DOCUMENT = (
    "The Ondrel Bridge crosses the river Sava at Marnholm. It was built by the engineer Tilda Roe and opened in 1907. "
    "The bridge is 212 metres long and made of black oak."
)
ANSWERS = {
    "When did the Ondrel Bridge open?": "1907",
    "Who built the Ondrel Bridge?": "Tilda Roe",
    "Which river does the Ondrel Bridge cross?": "Sava",
}


@pytest.mark.parametrize("name", list(shipped_banks()))
def test_a_shipped_bank_is_small_whole_and_described(name: str) -> None:
    saved, folder = load_bank(Path(name)), shipped_banks()[name]
    assert saved.tensors and saved.decoder_name == name.split("-")[0]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12e6
    assert (folder / "README.md").is_file(), "a bank needs a card: data, figures, limits"


def test_a_folder_has_priority_over_a_shipped_bank_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load_bank(Path("smollm2"))
    known = r"shipped bank \(smollm2, smollm2-exact\)"
    with pytest.raises(FileNotFoundError, match=rf"'smolm2' is not a bank.*{known}"):
        load_bank(Path("smolm2"))


@pytest.mark.real
@pytest.mark.parametrize("name", list(shipped_banks()))
def test_the_bank_for_smollm2_answers_from_a_document_that_is_not_in_the_prompt(name: str, smollm2) -> None:
    model = DiekaeModel.from_pretrained(name, *smollm2)
    prepared, prompter, right = model.prepare(DOCUMENT), model.need_prompter(), 0
    for question, wanted in ANSWERS.items():
        ids = torch.tensor([[*model.anchor, *prompter.knowledge(DOCUMENT), *prompter.input(question)]])
        made = model.decoder.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        prompted = str(prompter.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
        # What the decoder garbles with the document in its prompt, a bank need not know.
        if wanted in prompted:
            right += 1
            assert wanted in answer(model, question, prepared)
            assert wanted not in answer(model, question, None)
    assert right >= 2
