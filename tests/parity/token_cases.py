"""Tokenizer folders and texts whose tokens are compared with those of transformers 4.57.6."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parity.cases import LONG, TEXTS
from tests.parity.families import FAMILIES, TOKENIZERS

SINGLES = [
    *TEXTS,
    LONG,
    "",
    " ",
    "\n\t ",
    "a\r\nb",
    "3,000 and 3, 4,",
    "``quoted'' 'x' \"y\"",
    "hello\u2581world \u2581 x",
    "<extra_id_0> of <extra_id_1>",
    "end<|endoftext|> begin",
    ">>fr<< The house",
    ">>de<<The house",
    "[PAD][UNK] <pad><unk>",
    "x" * 120 + " y",
    "co\u00adop\u200bera\u200dtion \ufeffx\u0000y\u0007z",
    "Ελλάδα שלום مرحبا ไทย 한국어",
    "🇫🇷 flags 👍🏽 ok ½ ² ㎏",
    "ÀÉÎÕÜ ÇŞĞ İstanbul Straße",
    "a  b   c    d                             e",
]
PAIRS = [
    (TEXTS[0], TEXTS[1]),
    (TEXTS[2], TEXTS[5]),
    (TEXTS[8], TEXTS[9]),
    (TEXTS[0], ""),
    ("", TEXTS[0]),
    (" a ", " b "),
]
SOME = [0, 2, 5, 6, 7, 8, 9, 13, 19, 30]
"""The texts that variants of a folder are compared by; the whole folder by all."""


@dataclass(frozen=True)
class Folder:
    """A folder with a tokenizer: without some of its family's files, or with other settings."""

    family: str
    without: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    """Keys that tokenizer_config.json is to lack."""
    json: dict[str, Any] = field(default_factory=dict)
    """Parts of tokenizer.json that are to be others."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further files."""
    full: bool = False

    def texts(self) -> list[int]:
        """Places in SINGLES."""
        return list(range(len(SINGLES))) if self.full else SOME

    def write(self, folder: Path) -> None:
        """Write the files, and a config.json that names the architecture."""
        shutil.copytree(TOKENIZERS / self.family, folder)
        config = {"model_type": self.family, **FAMILIES[self.family].config}
        (folder / "config.json").write_text(json.dumps(config))
        file = folder / "tokenizer_config.json"
        settings = {**json.loads(file.read_text()), **self.config}
        file.write_text(json.dumps({k: v for k, v in settings.items() if k not in self.remove}))
        saved = folder / "tokenizer.json"
        if saved.is_file():
            saved.write_text(json.dumps({**json.loads(saved.read_text()), **self.json}))
        for name, content in self.files.items():
            (folder / name).write_text(json.dumps(content))
        for name in self.without:
            (folder / name).unlink()


_JSON = ("tokenizer.json",)
_BYTE_LEVEL = {
    "pre_tokenizer": {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
}
_SAVED = {
    "truncation": {
        "direction": "Right",
        "max_length": 5,
        "strategy": "LongestFirst",
        "stride": 0,
    },
    "padding": {
        "strategy": {"Fixed": 40},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
}

FOLDERS: dict[str, Folder] = {
    **{family: Folder(family, full=True) for family in FAMILIES},
    **{
        f"{family} from its vocabulary": Folder(family, _JSON, full=True)
        for family in FAMILIES
        if family not in ("modernbert", "marian")
    },
    "bert saved with truncation and padding": Folder("bert", json=_SAVED),
    "bert cased by its settings": Folder("bert", config={"do_lower_case": False}),
    "bert cased from its vocabulary": Folder("bert", _JSON, {"do_lower_case": False}),
    "bert keeps accents": Folder("bert", config={"strip_accents": False}),
    "bert keeps accents from its vocabulary": Folder("bert", _JSON, {"strip_accents": False}),
    "bert keeps Chinese words": Folder("bert", config={"tokenize_chinese_chars": False}),
    "bert without settings": Folder("bert", ("tokenizer.json", "tokenizer_config.json")),
    "bert as a plain fast tokenizer": Folder(
        "bert", config={"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}
    ),
    "distilbert with lower case by its settings": Folder(
        "distilbert", config={"do_lower_case": True}
    ),
    "distilbert without a class": Folder("distilbert", remove=("tokenizer_class",)),
    "mpnet cased by its settings": Folder("mpnet", config={"do_lower_case": False}),
    "roberta with a first space": Folder("roberta", config={"add_prefix_space": True}),
    "roberta with a first space from its vocabulary": Folder(
        "roberta", _JSON, {"add_prefix_space": True}
    ),
    "roberta with spaces in its offsets": Folder("roberta", config={"trim_offsets": False}),
    "roberta without settings": Folder("roberta", ("tokenizer.json", "tokenizer_config.json")),
    "roberta saved with a first space": Folder(
        "roberta", json=_BYTE_LEVEL, remove=("add_prefix_space",)
    ),
    "gpt2 with a first space": Folder("gpt2", config={"add_prefix_space": True}),
    "gpt2 saved with a first space": Folder("gpt2", json=_BYTE_LEVEL),
    "gpt2 with a first token from its vocabulary": Folder("gpt2", _JSON, {"add_bos_token": True}),
    "modernbert saved with a first space": Folder("modernbert", json=_BYTE_LEVEL),
    "llama with a last token": Folder("llama", config={"add_eos_token": True}),
    "llama without a first token": Folder("llama", config={"add_bos_token": False}),
    "llama of the first kind from its vocabulary": Folder("llama", _JSON, {"legacy": True}),
    "llama without a first space": Folder("llama", config={"add_prefix_space": False}),
    "albert cased from its vocabulary": Folder(
        "albert", _JSON, {"do_lower_case": False, "keep_accents": True}
    ),
    "deberta-v2 splits at punctuation from its vocabulary": Folder(
        "deberta-v2", _JSON, {"split_by_punct": True}
    ),
    "deberta-v2 with lower case from its vocabulary": Folder(
        "deberta-v2", _JSON, {"do_lower_case": True}
    ),
    "t5 of the second kind from its vocabulary": Folder("t5", _JSON, {"legacy": False}),
    "t5 without settings": Folder("t5", ("tokenizer_config.json",)),
    "xlm-roberta without settings": Folder(
        "xlm-roberta", ("tokenizer.json", "tokenizer_config.json")
    ),
    "bert with older files from its vocabulary": Folder(
        "bert",
        _JSON,
        files={
            "special_tokens_map.json": {"mask_token": "[MASK]", "bos_token": "[E1]"},
            "added_tokens.json": {"lovelace": 420, "[E1]": 421},
        },
    ),
    "gpt2 with an end of its own": Folder(
        "gpt2", files={"special_tokens_map.json": {"pad_token": "wor", "eos_token": "the"}}
    ),
    "bert with a token more": Folder(
        "bert",
        config={
            "added_tokens_decoder": {
                "420": {"content": "lovelace", "special": False, "normalized": True},
                "421": {"content": "[E1]", "special": True, "normalized": False},
            }
        },
    ),
}
