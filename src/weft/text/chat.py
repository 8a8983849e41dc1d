"""The frame that a backbone's chat template puts around a question: as ids, once, for all prompts.

The template is rendered around a marker and tokenised on both sides of it, so that its special
tokens come from the tokenizer and the text of items, which is tokenised apart, can add none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import WeftError

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MARKER = "weftmarker7351"


@dataclass(frozen=True)
class Frame:
    """Ids before what the user says, after it (up to the assistant's first word), and the id
    that ends the assistant's turn."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: int


def chat_frame(tokenizer: Any, system: str, template: str | None = None) -> Frame:
    """The frame of one question and its answer.

    `template` is None for the tokenizer's own, "chatml", a path of a .jinja file, or a template.
    A template that takes no system message gets its text at the start of the user's.

    Raises a `WeftError` where there is no template, or it does not say what it is given.
    """
    chosen = _template(tokenizer, template)
    asked = _render(tokenizer, chosen, system, None)
    answered = _render(tokenizer, chosen, system, _MARKER)
    if not answered.startswith(asked):  # a template that opens a thought before an answer, say
        asked = answered[: answered.rindex(_MARKER)]
    before, after = _around(asked)
    rest = _around(answered[answered.rindex(_MARKER) :])[1]
    return Frame(_ids(tokenizer, before), _ids(tokenizer, after), _end(tokenizer, rest))


def _template(tokenizer: Any, template: str | None) -> str:
    if template is None:
        own = getattr(tokenizer, "chat_template", None)
        if isinstance(own, dict):
            own = own.get("default")
        if not own:
            raise WeftError(
                f"the tokenizer {type(tokenizer).__name__} of this backbone has no chat template; "
                "give one: recommender.prompt.chat_template: chatml, a .jinja file, or a template"
            )
        return str(own)
    if template == "chatml":
        return CHATML
    return template_file(Path(template)) if template.endswith(".jinja") else template


def template_file(path: Path) -> str:
    """The text of a .jinja file."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeftError(f"chat_template: {path} can't be read: {error}") from None


def _render(tokenizer: Any, template: str, system: str, answer: str | None) -> str:
    """The conversation up to the assistant's answer, or with it. Without a system role if need be."""
    user = {"role": "user", "content": _MARKER}
    said = [] if answer is None else [{"role": "assistant", "content": answer}]
    tries = [
        [{"role": "system", "content": system}, user, *said],
        [{"role": "user", "content": f"{system}\n\n{_MARKER}"}, *said],
    ]
    problem: Exception | None = None
    for messages in tries:
        try:
            text = tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=answer is None,
                enable_thinking=False,  # of templates that can make a model think first
            )
        except Exception as error:  # jinja's own errors, and whatever a template raises
            problem = error
            continue
        if str(text).count(_MARKER) == 1 + len(said) and system in text:
            return str(text)
    reason = f": {problem}".partition("\n")[0] if problem else ""
    raise WeftError(f"the chat template does not give back what the user says{reason}")


def _around(text: str) -> tuple[str, str]:
    before, _, after = text.partition(_MARKER)
    return before, after


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The template's own words, where special tokens are meant."""
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()


def _end(tokenizer: Any, rest: str) -> int:
    """The id that ends a turn: the first special token that the template puts behind an answer."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for one in _ids(tokenizer, rest):
        if one in special:
            return one
    if tokenizer.eos_token_id is None:
        raise WeftError("neither the chat template nor the tokenizer says what ends an answer")
    return int(tokenizer.eos_token_id)
