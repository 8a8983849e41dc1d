"""The frame that a backbone's chat template puts around a question: as ids, once, for all prompts.

The template is rendered around a marker and tokenised on both sides of it, so that its special
tokens come from the tokenizer and the text of items, which is tokenised apart, can add none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import DataError, NotFoundError, SettingError

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MARKER = "weftmarker7351"


@dataclass(frozen=True)
class Frame:
    """Ids before the user's message, ids after it (up to the assistant's first word), and the id
    that ends the assistant's turn."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    end: int


def chat_frame(tokenizer: Any, system: str, template: str | None = None) -> Frame:
    """The frame of one question and its answer.

    `template` is None for the tokenizer's own, "chatml", a path of a .jinja file, or a template.
    A template that takes no system message gets its text at the start of the user's.

    Raises a `SettingError` where there is no template, or one that drops the user's message.
    """
    chosen = _template(tokenizer, template)
    asked = _render(tokenizer, chosen, system, None)
    answered = _render(tokenizer, chosen, system, _MARKER)
    if not answered.startswith(asked):  # as with a template that opens a thought before the answer
        asked = answered[: answered.rindex(_MARKER)]
    before, after = _around(asked)
    rest = _around(answered[answered.rindex(_MARKER) :])[1]
    return Frame(_ids(tokenizer, before), _ids(tokenizer, after), _end(tokenizer, rest))


def _template(tokenizer: Any, template: str | None) -> str:
    if template is None:
        stored = getattr(tokenizer, "chat_template", None)
        if isinstance(stored, dict):
            stored = stored.get("default")
        if not stored:
            raise SettingError(
                f"the tokenizer {type(tokenizer).__name__} of this backbone has no chat template; "
                "give one: recommender.prompt.chat_template: chatml, a .jinja file, or a template"
            )
        return str(stored)
    if template == "chatml":
        return CHATML
    return template_file(Path(template)) if template.endswith(".jinja") else template


def template_file(path: Path) -> str:
    """The text of a .jinja file."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"chat_template: {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"chat_template: {path} can't be read: {error}") from None


def _render(tokenizer: Any, template: str, system: str, answer: str | None) -> str:
    """The conversation up to the assistant's answer, or with it. Without a system role if need be."""
    user = {"role": "user", "content": _MARKER}
    answers = [] if answer is None else [{"role": "assistant", "content": answer}]
    tries = [
        [{"role": "system", "content": system}, user, *answers],
        [{"role": "user", "content": f"{system}\n\n{_MARKER}"}, *answers],
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
        if str(text).count(_MARKER) == 1 + len(answers) and system in text:
            return str(text)
    reason = f": {problem}".partition("\n")[0] if problem else ""
    raise SettingError(f"the chat template drops or changes the user's message{reason}")


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
        raise SettingError(
            "neither the chat template nor the tokenizer has a token that ends an answer"
        )
    return int(tokenizer.eos_token_id)
