"""DREAM: questions about everyday dialogues (Sun et al., 2019).

    [["M: I am considering dropping my dancing class. I am not making any progress.",
      "W: If I were you, I stick with it. It's definitely worth time and effort."],
     [{"question": "What does the man suggest the woman do?",
       "choice": ["Consult her dancing teacher.", "Take a more interesting class.", "Continue her dancing class."],
       "answer": "Continue her dancing class."}],
     "5-510"]

Licence: non-commercial research.
"""

from __future__ import annotations

from diekae.data.example import DataError, Example
from diekae.data.sources import Request, register

UPSTREAM = "the repository nlpdata/dream (folder data)"
_FILES = {"train": "train.json", "validation": "dev.json", "test": "test.json"}


@register("dream")
def load_dream(request: Request) -> list[Example]:
    """The first question of each dialogue, those that are a sentence with a gap (``__``) left out.

    The upstream files give 3829 / 1273 / 1276 examples.
    """
    name = _FILES[request.split]
    examples = []
    for number, entry in enumerate(request.json(name, UPSTREAM)):
        try:
            turns, questions, _ = entry
            question, answer = questions[0]["question"], questions[0]["answer"]
            if "__" not in question:
                examples.append(Example(("\n".join(turns),), question, answer))
        except (ValueError, TypeError, LookupError) as error:
            raise DataError(f"{request.folder}/{name}: entry {number} is not a DREAM dialogue ({error!r})") from error
    return examples
