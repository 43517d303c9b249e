"""Makes the goldens of the tokenizers with AutoTokenizer of transformers 4.57.6.

Run by hand, with that version and sentencepiece installed:

    PYTHONPATH=. python tests/parity/make_token_goldens.py

`goldens/tokens.jsonl` holds one folder of `token_cases.py` a line: its name, and for each
text or pair its ids, token types and flat offsets (Marian's tokenizer had none); `as` names a folder with the same rows.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import transformers

from tests.parity.token_cases import FOLDERS, PAIRS, SINGLES

GOLDENS = Path(__file__).parent / "goldens"
VERSION = "4.57.6"


def row(tokenizer: Any, text: str, pair: str | None) -> list[Any]:
    found = tokenizer(text, pair or None, return_offsets_mapping=tokenizer.is_fast)
    assert all(found["attention_mask"])
    flat = [place for span in found.get("offset_mapping", []) for place in span]
    return [found["input_ids"], found.get("token_type_ids", []), flat]


def main() -> None:
    assert transformers.__version__ == VERSION, f"needs transformers {VERSION}"
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    lines: list[dict[str, Any]] = []
    for name, folder in FOLDERS.items():
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "folder"
            folder.write(path)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, use_fast=True)
        assert tokenizer.is_fast or folder.family == "marian"
        rows = [row(tokenizer, SINGLES[index], None) for index in folder.texts()]
        rows += [row(tokenizer, *pair) for pair in PAIRS]
        same = [line["name"] for line in lines if line.get("rows") == rows]
        found = {"as": same[0]} if same else {"rows": rows}
        lines.append({"name": name, **found})
        print(name, type(tokenizer).__name__, tokenizer.convert_ids_to_tokens(rows[0][0])[:6])
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (GOLDENS / "tokens.jsonl").write_text(text)
    print(f"{len(lines)} folders, {len(text) // 1024} KiB")


if __name__ == "__main__":
    main()
