"""What the benchmarks share: the page that they write, the texts, the labels that must come back."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks.models import texts
from benchmarks.report import Report
from benchmarks.servers.systems import SYSTEMS
from flambeau.bench.svg import bar_chart


def test_a_report_is_a_page_figures_and_charts(tmp_path: Path) -> None:
    """Figures are rounded on the page and exact in the JSON; charts of an earlier run are removed."""
    (tmp_path / "engine-2.svg").touch()
    report = Report("engine", "The engine alone", "How it was measured.")
    report.table("Tokens", ["system", "tokens/s"], [["packed | new", 1234.5678], ["old", None]])
    report.chart(bar_chart("Tokens", {"packed": {"tokens/s": 1234.5}}, y="tokens/s"))
    report.note("Fell short: nothing.")
    report.data["runs"] = [1, 2]
    report.write(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"engine.json", "engine.md", "engine.svg"}
    page = (tmp_path / "engine.md").read_text()
    assert "| packed \\| new | 1,235 |\n| old | - |" in page
    assert "![The engine alone](engine.svg)" in page
    assert "Fell short: nothing." in page
    document = json.loads((tmp_path / "engine.json").read_text())
    assert document["tables"][0]["rows"][0] == {"system": "packed | new", "tokens/s": 1234.5678}
    assert document["data"] == {"runs": [1, 2]}
    assert {"date", "cpu", "cores", "memory_gib", "kernel", "commit", "versions"} <= set(
        document["machine"]
    )


def test_a_row_that_does_not_fit_its_table_is_refused() -> None:
    """When it is added, not when hours of measuring are over."""
    with pytest.raises(ValueError, match="has not 2 cells"):
        Report("x", "X", "").table("T", ["a", "b"], [["one"]])


def test_texts_have_the_mean_length_in_tokens() -> None:
    """The mix counts [CLS] and [SEP]; a word is one token."""
    lengths = [len(text.split()) + 2 for text in texts(3000)]
    assert statistics.mean(lengths) == pytest.approx(30, rel=0.1)
    assert max(lengths) <= 256
    assert {len(text.split()) for text in texts(5, "fixed:16")} == {14}
    assert texts(10) == texts(10)


@pytest.mark.parametrize(
    ("system", "answer"),
    [
        ("flambeau", b'[{"label": "B", "score": 0.1}, {"label": "A", "score": 0.9}]'),
        ("flambeau-mar", b"A"),
        ("torchserve", b"A"),
        ("fastapi", b'{"label": "A"}'),
        ("mlserver", b'{"outputs": [{"data": ["A"]}]}'),
        ("infinity", b'{"data": [[{"score": 0.9, "label": "A"}, {"score": 0.1, "label": "B"}]]}'),
    ],
)
def test_a_label_is_read_from_each_system_s_answer(system: str, answer: bytes) -> None:
    """So that all can be compared with what transformers says."""
    assert SYSTEMS[system].label(answer) == "A"
