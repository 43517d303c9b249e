"""Token classification against the pipeline of transformers 4.57.6."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.parity.answers import difference
from tests.parity.families import MAX_LENGTH, TOKENIZERS
from tests.parity.served import Case, answers, differences, read_goldens, serve
from tests.parity.specs import MODELS

GOLDENS = read_goldens("token-classification")
DEVIATION = (
    "The pipeline made entities of each window alone and then kept the longer of two that overlap:"
    " entities at a seam were cut in two, lost or doubled, and a word's second half opened an entity."
    " Of the tokens of one character, such as an emoji's bytes, it kept one."
    " Flambeau makes them once of all windows' tokens. Entities whose tokens are all in one window"
    " only, and which do not touch its seams, must be the pipeline's."
)


def in_windows(case: Case) -> bool:
    return "stride" in case.parameters


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_entities_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """Labels, words and offsets exactly: all strategies, ignored labels, texts that are cut."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = [case for case in GOLDENS.cases[name] if not in_windows(case)]
    assert differences(cases, answers(served, cases)) == []


@pytest.mark.parametrize("name", GOLDENS.cases)
def test_entities_between_the_seams_are_the_pipelines(name: str, tmp_path: Path) -> None:
    """Texts of several windows, any overlap: what no seam touches (DEVIATION says why only that)."""
    served = serve(name, GOLDENS.digests[name], tmp_path / "model")
    cases = [case for case in GOLDENS.cases[name] if in_windows(case)]
    compared = 0
    for case, found in zip(cases, answers(served, cases), strict=True):
        rows = [(case.inputs, case.outputs, found)]
        if isinstance(case.inputs, list):
            rows = list(zip(case.inputs, case.outputs, found, strict=True))
        for text, expected, answer in rows:
            zones = alone(MODELS[name].family, text, case.parameters["stride"])
            kept = inner(expected, zones)
            compared += len(kept)
            seen = answer if zones == [whole(text)] else without_overlaps(answer)
            assert difference(kept, inner(seen, zones)) is None, case
    assert compared > 50


def alone(family: str, text: str, stride: int) -> list[tuple[int, int]]:
    """The stretches of a text that only one of its windows holds, without the words at seams.

    A text of one window is one stretch.
    """
    tokenizer = Tokenizer.from_file(str(TOKENIZERS / family / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH, stride=stride)
    first = tokenizer.encode(text)
    windows = [
        [span for span, part in zip(each.offsets, each.sequence_ids, strict=True) if part == 0]
        for each in (first, *first.overflowing)
    ]
    zones = []
    for before, own, after in zip([[], *windows], windows, [*windows[1:], []], strict=False):
        start = max(own[0][0], before[-1][1]) + 1 if before else whole(text)[0]
        end = min(own[-1][1], after[0][0]) - 1 if after else whole(text)[1]
        # The first and the last word may go on beyond the seam.
        if before:
            start = text.find(" ", start) + 1 or len(text)
        if after:
            end = text.rfind(" ", 0, end)
        if start < end:
            zones.append((start, end))
    return zones


def whole(text: str) -> tuple[int, int]:
    """The stretch that all entities of a text lie in, and none at an end of."""
    return -1, len(text) + 1


def inner(entities: list[dict[str, Any]], zones: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """The entities that lie in one stretch as a whole, and not at an end, where they may go on."""
    return [
        entity
        for entity in entities
        if any(start < entity["start"] and entity["end"] < end for start, end in zones)
    ]


def without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that overlap the longest, of equally long ones the best: what the pipeline kept."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: int(entity["start"])):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
            continue
        rank = (entity["end"] - entity["start"], entity["score"])
        if rank > (kept[-1]["end"] - kept[-1]["start"], kept[-1]["score"]):
            kept[-1] = entity
    return kept
