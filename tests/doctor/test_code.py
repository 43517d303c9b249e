"""What the doctor finds in an archive's code, without running it."""

import sys
import textwrap

import pytest

from tests.doctor.conftest import Examine, brief, found

CLASS = """
from ts.torch_handler.base_handler import BaseHandler

class Mine(BaseHandler):
    def preprocess(self, data):
        return [row.get("data") or row.get("body") for row in data]
"""


def test_a_sound_archive_has_no_findings(examined: Examine) -> None:
    """Nothing is reported of code that will just run, and it is said who answers."""
    report = examined(CLASS)
    assert report.findings == ()
    assert (report.archive, report.model, report.version) == ("m.mar", "m", "1.0")
    assert report.served == "the archive's own my_handler.py"


def test_nothing_of_the_archive_is_run(examined: Examine) -> None:
    """Neither the handler nor a module beside it."""
    report = examined(
        "import helper\nraise SystemExit\ndef handle(data, context):\n    return data\n",
        files={"helper.py": "raise SystemExit"},
    )
    assert report.findings == ()
    assert "helper" not in sys.modules


def test_imports_that_do_not_resolve(examined: Examine) -> None:
    """One error per package with the file and line; what is guarded, brought or packed is none."""
    report = examined(
        textwrap.dedent("""
        import json, local_module
        import absent_package.part
        from absent_package import other
        import sentencepiece_absent
        try:
            import optional_package
        except ImportError:
            optional_package = None
        from transformers import AutoModelForSequenceClassification, AdamW, BertTokenizerFast
        from transformers.modeling_bert import BertModel
        import transformers
        a = transformers.TFAutoModel
        from ts.torch_handler.no_such_handler import Nothing
        from ts.torch_handler.base_handler import BaseHandler, NoSuchName
        from ts.utils.util import map_class_to_label, PredictionException
        from ts.context import Context

        def handle(data, context):
            return [1 for _ in data]
        """),
        requirements="sentencepiece-absent==1.0\n",
        files={"local_module.py": ""},
    )
    assert brief(report) == {
        ("error", "import", "my_handler.py:3"),
        ("warning", "import-from-requirements", "my_handler.py:5"),
        ("warning", "requirements", "requirements.txt"),
        ("warning", "tokenizer", "my_handler.py"),
        ("note", "optional-import", "my_handler.py:7"),
        ("error", "transformers-name", "my_handler.py:10"),
        ("error", "import", "my_handler.py:11"),
        ("error", "transformers-name", "my_handler.py:13"),
        ("error", "ts-import", "my_handler.py:14"),
        ("error", "ts-import", "my_handler.py:15"),
    }
    texts = " ".join(finding.what for finding in report.findings)
    assert "no AdamW" in texts
    assert "no NoSuchName" in texts
    assert "BertTokenizerFast" not in texts
    assert "torch.optim.AdamW" in " ".join(finding.advice for finding in report.findings)


@pytest.mark.parametrize(
    ("code", "severity", "kind"),
    [
        ("tokenizer.encode_plus(text)", "note", "old-call"),
        ("tokenizer.batch_encode_plus(texts)", "note", "old-call"),
        ("tokenizer(text, pad_to_max_length=True)", "note", "old-call"),
        ("Model.from_pretrained(folder, torchscript=True)", "note", "old-call"),
        ("model.to_bettertransformer()", "error", "removed-call"),
        ("BetterTransformer.transform(model)", "error", "removed-call"),
        ("Model.from_pretrained(folder, use_auth_token=key)", "error", "removed-call"),
        ("pipeline('summarization', model=folder)", "error", "removed-pipeline"),
        ("pipeline(task='translation_en_to_fr', model=folder)", "error", "removed-pipeline"),
        ("pipeline('text-classification')", "warning", "hub-access"),
        ("AutoModel.from_pretrained('bert-base-uncased')", "warning", "hub-access"),
        ("hf_hub_download('owner/name', 'f')", "warning", "hub-access"),
        ("requests.get('https://example.org')", "warning", "network"),
    ],
)
def test_calls(examined: Examine, code: str, severity: str, kind: str) -> None:
    """What Transformers 5 removed, and what reaches for the hub: where, and what to write instead."""
    report = examined(f"def handle(data, context):\n    {code}\n    return list(data)\n")
    assert brief(report) == {(severity, kind, "my_handler.py:2")}
    assert report.findings[0].advice


def test_models_of_the_archive_are_not_the_hub(examined: Examine) -> None:
    """A literal that names a file or folder of the archive, or a path."""
    report = examined(
        "def handle(data, context):\n"
        "    A.from_pretrained('weights')\n    A.from_pretrained('./x')\n"
        "    A.from_pretrained(context.system_properties['model_dir'])\n    return list(data)\n",
        files={"weights/model.txt": ""},
    )
    assert report.findings == ()


BATCHES = """
class Mine:
    def initialize(self, context):
        self.ready = True

    def handle(self, data, context):
        if data is None:
            return None
        text = data[0].get("data")
        return [text.upper()]
"""


@pytest.mark.parametrize(("batch_size", "severity"), [(8, "error"), (1, "note")])
def test_code_that_answers_one_request(examined: Examine, batch_size: int, severity: str) -> None:
    """`data[0]` and no loop loses requests as soon as batchSize is more than 1."""
    report = examined(BATCHES, yaml=f"batchSize: {batch_size}\n")
    assert brief(report) == {(severity, "batch-unsafe", "my_handler.py:9")}


@pytest.mark.parametrize(
    "body",
    [
        "return [row for row in data]",
        "first = data[0]; return [f(x) for x in data]",
        "rows = self.preprocess(data); return rows",
        "return [data[i] for i in range(len(data))]",
    ],
)
def test_code_that_answers_all(examined: Examine, body: str) -> None:
    """A loop, a comprehension, or handing all rows on is not reported."""
    code = f"def handle(data, context):\n    {body}\n"
    assert examined(code, yaml="batchSize: 8\n").findings == ()


def test_which_class_is_the_handler(examined: Examine) -> None:
    """Several that could be it are an error with the way out; helpers beside it are a note."""
    two = CLASS + "class Other(BaseHandler):\n    pass\n"
    report = examined(two)
    assert brief(report) == {("error", "handler", "my_handler.py:7")}
    assert "Mine, Other" in report.findings[0].what
    assert "my_handler.py:Other" in report.findings[0].advice


@pytest.mark.parametrize(
    ("code", "kind", "severity"),
    [
        (CLASS + "class Helper:\n    pass\n", "handler", "note"),
        (CLASS + "class Last(Mine):\n    pass\n", "handler", "note"),
        ("x: int\n", "handler", "error"),
        ("def handle(data, context)\n    pass", "syntax", "error"),
        ("print 'python 2'\n", "syntax", "error"),
    ],
)
def test_handler_files(examined: Examine, code: str, kind: str, severity: str) -> None:
    """One entry point: a function or a class; the file must be Python 3."""
    findings = found(examined(code))
    assert findings[kind].severity == severity
