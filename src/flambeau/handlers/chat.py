"""Conversations to prompts, by the chat template that came with the model."""

from collections.abc import Mapping
from pathlib import Path

from flambeau.errors import ErrorKind, PredictionError, first_line
from flambeau.handlers.settings import read_json_object
from flambeau.tasks.base import Chat

TEMPLATE_FILE = "chat_template.jinja"


class ChatTemplate:
    """A model's template, rendered in Transformers' sandbox; `text` None: the model has none."""

    def __init__(self, text: str | None, special_tokens: Mapping[str, str]) -> None:
        self.text = text
        self._special_tokens = dict(special_tokens)

    def render(self, chat: Chat) -> str:
        """The prompt, with the special tokens that belong to it.

        Raises `PredictionError` (`INVALID_INPUT`) where there is no template, or the template
        refuses the conversation.
        """
        if self.text is None:
            raise PredictionError(
                "The model has no chat template: neither chat_template.jinja nor chat_template in"
                " tokenizer_config.json is in its archive. Add one, or send the prompt as a text.",
                ErrorKind.INVALID_INPUT,
            )
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered, _ = render_jinja_template(
                [chat.messages],
                chat_template=self.text,
                add_generation_prompt=not chat.continues,
                continue_final_message=chat.continues,
                **self._special_tokens,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise PredictionError(
                f"Invalid input: the model's chat template refuses the messages:"
                f" {first_line(error)}",
                ErrorKind.INVALID_INPUT,
            ) from error
        return str(rendered[0])


def read_chat_template(model_dir: Path) -> ChatTemplate:
    """The template of an unpacked model, and the special tokens that it may name."""
    config = read_json_object(model_dir / "tokenizer_config.json")
    special = read_json_object(model_dir / "special_tokens_map.json") | config
    tokens = {
        name: text
        for name, token in special.items()
        if name.endswith("_token") and (text := _text_of(token)) is not None
    }
    file = model_dir / TEMPLATE_FILE
    if file.is_file():
        return ChatTemplate(file.read_text(encoding="utf-8"), tokens)
    return ChatTemplate(_saved_template(config.get("chat_template")), tokens)


def _saved_template(saved: object) -> str | None:
    """Of several templates by name, the one that is called `default`."""
    if isinstance(saved, list):
        named = {each.get("name"): each.get("template") for each in saved if isinstance(each, dict)}
        saved = named.get("default")
    return saved if isinstance(saved, str) else None


def _text_of(token: object) -> str | None:
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None
