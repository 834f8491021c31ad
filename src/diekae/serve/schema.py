"""What requests may hold: OpenAI's fields, checked, and ``knowledge``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator


def _check_encodable(text: str) -> str:
    text.encode()  # JSON can hold half a surrogate pair, which is no character; UnicodeEncodeError is a ValueError
    return text


AnyText = Annotated[str, AfterValidator(_check_encodable)]
Text = Annotated[str, StringConstraints(min_length=1), AfterValidator(_check_encodable)]
TEXT_LIMIT = 1_000_000
"""Most characters of a text in a request."""


class Strict(BaseModel):
    """A part of a request that is ours: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid")


class Search(Strict):
    """Let the question find its passages."""

    k: int = Field(2, ge=1, le=16, description="Passages that are read.")


class KnowledgeRequest(Strict):
    """What a request's answer is read from: a text, named documents, or what a search finds (in named documents)."""

    documents: list[Text] | None = Field(None, min_length=1, max_length=32, description="Ids of files or documents.")
    text: Text | None = Field(None, max_length=TEXT_LIMIT, description="A text, read for this request.")
    search: Search | None = Field(None, description="Search the documents with the last question.")
    shares: bool = Field(False, description="Also report the share of attention that each passage received.")

    @model_validator(mode="after")
    def _one(self) -> KnowledgeRequest:
        given = [name for name in ("documents", "text", "search") if getattr(self, name) is not None]
        if not given:
            raise ValueError("knowledge needs one of documents, text and search")
        if self.text is not None and len(given) > 1:
            raise ValueError("knowledge has text and also documents or search; give text alone, or leave it out")
        return self

    @property
    def depends_on_prompt(self) -> bool:
        """Tell whether the prompt decides what is read."""
        return self.search is not None or len(set(self.documents or ())) > 1


class ContentPart(BaseModel):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: AnyText = Field(max_length=TEXT_LIMIT)


class ChatMessage(BaseModel):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: AnyText | list[ContentPart]

    def plain(self) -> dict[str, str]:
        """Return the turn as Transformers' chat templates want it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    include_usage: bool = False


class Generation(BaseModel):
    """What both kinds of completion share. OpenAI's fields that change nothing here are ignored, others refused."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=8)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: AnyText | list[AnyText] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    knowledge: KnowledgeRequest | None = None

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> list[str]:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > 8 or not all(stops) or any(len(stop) > 256 for stop in stops):
            raise ValueError("expected at most 8 texts of 1 to 256 characters")
        return stops

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:
        """Drop nulls, and refuse fields that would change the answer and are not supported."""
        if not isinstance(values, dict):
            return values
        values = {name: value for name, value in values.items() if value is not None}
        for name, value in values.items():
            if name not in cls.model_fields and name not in IGNORED and HARMLESS.get(name, ...) != value:
                raise ValueError(f"the field {name!r} is not supported; leave it out")
        return values


IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
"""OpenAI's fields that do not change an answer."""
HARMLESS: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "best_of": 1,
    "echo": False,
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "modalities": ["text"],
}
"""Values of other fields that ask for nothing."""


class ChatRequest(Generation):
    """The body of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)


class CompletionRequest(Generation):
    """The body of ``/v1/completions``."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=16)]
    logprobs: int | None = Field(None, ge=0, le=20)


class VectorStoreRequest(BaseModel):
    """The body of ``/v1/vector_stores``."""

    name: AnyText | None = Field(None, max_length=256)
    file_ids: list[Text] = Field(default_factory=list, max_length=1000)


class VectorStoreFileRequest(BaseModel):
    """The body of ``/v1/vector_stores/{id}/files``."""

    file_id: Text


class VectorStoreSearch(BaseModel):
    """The body of ``/v1/vector_stores/{id}/search``."""

    query: Text | Annotated[list[Text], Field(min_length=1, max_length=8)]
    max_num_results: int = Field(10, ge=1, le=50)
    filters: None = Field(None, description="Not supported.")
    ranking_options: None = Field(None, description="Not supported.")


class EditRequest(Strict):
    """The body of ``/v1/edits``."""

    prompt: Text = Field(max_length=4096, description="What the decoder is to continue.")
    subject: Text = Field(max_length=512, description="Who or what the fact is about; stands in the prompt.")
    target: Text = Field(max_length=4096, description="What it is to say from now on.")
