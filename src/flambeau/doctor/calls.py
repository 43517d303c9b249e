"""Calls that current libraries removed, and calls that reach for the hub."""

import ast
from collections.abc import Iterator
from pathlib import Path

from flambeau.doctor.findings import Finding
from flambeau.doctor.sources import Source, calls, dotted, keyword, text_of

_GIVEN_BACK = {
    "encode_plus": "tokenizer(…)",
    "batch_encode_plus": "tokenizer([…])",
}
"""Removed calls that `handlers/removed_calls.py` keeps working."""

_GIVEN_BACK_ARGUMENTS = {
    "pad_to_max_length": 'padding="max_length", truncation=True',
    "torchscript": "return_dict=False",
}

_REMOVED = {
    "to_bettertransformer": "Leave it out: attn_implementation='sdpa', the default, does the same.",
    "reverse_bettertransformer": "Leave it out.",
    "prepare_seq2seq_batch": "Call tokenizer(texts, text_target=targets).",
    "as_target_tokenizer": "Call tokenizer(text_target=targets).",
    "prepare_for_model": "Call the tokenizer with texts.",
    "build_inputs_with_special_tokens": "Call the tokenizer with texts.",
    "create_token_type_ids_from_sequences": "Call the tokenizer with texts.",
}
"""Methods of tokenizers and models that Transformers 5 does not have any more."""

_REMOVED_ARGUMENTS = {"use_auth_token": "token"}

_REMOVED_PIPELINES = frozenset(
    [
        "summarization",
        "text2text-generation",
        "question-answering",
        "conversational",
        "image-to-text",
        "image-to-image",
        "visual-question-answering",
        "vqa",
    ]
)

_HUB = ("hf_hub_download", "snapshot_download", "hub.load", "load_state_dict_from_url")
_NETWORK = ("requests.get", "requests.post", "urllib.request.urlopen", "urllib.request.urlretrieve")


def check_calls(sources: list[Source], model_dir: Path) -> list[Finding]:
    """Findings on every call of the archive's code."""
    return [
        finding
        for source in sources
        for call in calls(source.tree)
        for finding in (*_removed(source, call), *_hub(source, call, model_dir))
    ]


def _removed(source: Source, call: ast.Call) -> Iterator[Finding]:
    where = source.at(call)
    name = dotted(call.func).rpartition(".")[2]
    if name in _GIVEN_BACK:
        yield _still_works(where, f"{name}(…)", _GIVEN_BACK[name])
    for argument, successor in _GIVEN_BACK_ARGUMENTS.items():
        if keyword(call, argument) is not None and "trace" not in name:
            yield _still_works(where, f"{argument}=…", successor)
    if name in _REMOVED and isinstance(call.func, ast.Attribute):
        yield Finding(
            "error", "removed-call", where, f"Transformers 5 removed {name}.", _REMOVED[name]
        )
    if "BetterTransformer" in dotted(call.func):
        yield Finding(
            "error",
            "removed-call",
            where,
            "BetterTransformer does not work with Transformers 5.",
            _REMOVED["to_bettertransformer"],
        )
    for argument, successor in _REMOVED_ARGUMENTS.items():
        if keyword(call, argument) is not None:
            yield Finding(
                "error",
                "removed-call",
                where,
                f"Transformers 5 removed the argument {argument}.",
                f"Write {successor}=…",
            )
    task = _pipeline_task(call)
    if task in _REMOVED_PIPELINES or (task or "").startswith("translation"):
        yield Finding(
            "error",
            "removed-pipeline",
            where,
            f"Transformers 5 has no {task} pipeline.",
            "Call the model and tokenizer yourself, or let Flambeau's native handler serve the model"
            " (question answering, text generation).",
        )


def _still_works(where: str, call: str, successor: str) -> Finding:
    return Finding(
        "note",
        "old-call",
        where,
        f"Transformers 5 removed {call}; Flambeau keeps it working.",
        f"Write {successor}.",
    )


def _pipeline_task(call: ast.Call) -> str | None:
    if dotted(call.func).rpartition(".")[2] != "pipeline":
        return None
    return text_of(call.args[0] if call.args else keyword(call, "task"))


def _hub(source: Source, call: ast.Call, model_dir: Path) -> Iterator[Finding]:
    name = dotted(call.func)
    where = source.at(call)
    if name.endswith((".from_pretrained", ".from_config")) or name == "SentenceTransformer":
        model = text_of(_first(call, "pretrained_model_name_or_path", "model_name_or_path"))
    elif name.rpartition(".")[2] == "pipeline":
        model = text_of(keyword(call, "model"))
        if _pipeline_task(call) and keyword(call, "model") is None and len(call.args) < 2:
            model = "the task's default model"
    elif name.endswith(_HUB):
        model = text_of(_first(call, "repo_id", "repo_or_dir", "url")) or "a model"
    elif name in _NETWORK:
        yield Finding(
            "warning",
            "network",
            where,
            f"{name} reaches for the network.",
            "Put what it fetches into the archive, so that a start needs no network.",
        )
        return
    else:
        return
    if model is None or (model_dir / model).exists() or _is_path(model):
        return
    yield Finding(
        "warning",
        "hub-access",
        where,
        f"{model} is fetched from the hub at each start of a worker that has no cache.",
        "Put the files into the archive (--extra-files) and load them from model_dir.",
    )


def _first(call: ast.Call, *names: str) -> ast.expr | None:
    if call.args:
        return call.args[0]
    return next((value for name in names if (value := keyword(call, name)) is not None), None)


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text == ""
