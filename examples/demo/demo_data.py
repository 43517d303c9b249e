"""Reads the demo's data files and makes the synthetic part of the training sets.

Three kinds of examples, one dataclass each: `Review` (sentiment), `TaggedSentence` (entities) and
`QuestionAnswer` (questions). `data/README.md` describes the files. Whatever is random takes a
`numpy.random.Generator`, so the same seed gives the same sentences.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flambeau.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

DATA = Path(__file__).resolve().parent / "data"

SENTIMENTS = ("NEGATIVE", "POSITIVE")
ENTITY_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")

_SIGNS = {"-": 0, "+": 1}
_MARKUP = re.compile(r"\[(?P<name>[^\]]+)\]\((?P<kind>PER|ORG|LOC)\)")
_SLOT = re.compile(r"\{(?P<slot>(?P<kind>[A-Z]+)2?)\}")
_NUMBER_WORDS = (
    *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("fifteen", "twenty", "thirty", "forty", "fifty", "sixty", "eighty", "ninety"),
)


@dataclass(frozen=True, slots=True)
class Review:
    """A text and its sentiment, an index into `SENTIMENTS`."""

    text: str
    label: int


@dataclass(frozen=True, slots=True)
class Entity:
    """A name in a text: half-open character range and kind (`PER`, `ORG` or `LOC`)."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A text and the names in it, in order and without overlap."""

    text: str
    entities: tuple[Entity, ...]


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question whose answer is `context[start:end]`."""

    question: str
    context: str
    start: int
    end: int

    @property
    def answer(self) -> str:
        """The answer as it stands in the context."""
        return self.context[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Frame:
    """Several ways to say one fact, and (question, answer) patterns about it."""

    sentences: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]


def _lines(path: Path) -> "Iterator[tuple[str, str]]":
    """Yields (place, line) for every line that is no comment; blank lines are kept."""
    if not path.is_file():
        raise ConfigError(
            f"{path}: the demo's data file is missing; restore it from the repository"
        )
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("#"):
            yield f"{path.name}:{number}", line.rstrip()


def read_reviews(path: Path) -> list[Review]:
    """Reads `+ text` and `- text` lines; raises `ConfigError` with the line's number."""
    reviews = []
    for place, line in _lines(path):
        if not line:
            continue
        sign, _, text = line.partition(" ")
        if sign not in _SIGNS or not text:
            raise ConfigError(f"{place}: expected '+ text' or '- text', found {line!r}")
        reviews.append(Review(text, _SIGNS[sign]))
    return reviews


def parse_markup(line: str) -> TaggedSentence:
    """Turns `[Ada](PER) lives here.` into the plain text and its entities."""
    text = ""
    entities = []
    end = 0
    for match in _MARKUP.finditer(line):
        text += line[end : match.start()]
        start = len(text)
        text += match["name"]
        entities.append(Entity(start, len(text), match["kind"]))
        end = match.end()
    return TaggedSentence(text + line[end:], tuple(entities))


def read_tagged(path: Path) -> list[TaggedSentence]:
    """Reads one marked-up sentence a line; raises `ConfigError` where markup is left over."""
    sentences = []
    for place, line in _lines(path):
        if not line:
            continue
        sentence = parse_markup(line)
        if re.search(r"[\[\]]|\((?:PER|ORG|LOC)\)", sentence.text):
            raise ConfigError(f"{place}: broken markup, expected '[name](PER|ORG|LOC)': {line!r}")
        sentences.append(sentence)
    return sentences


def _blocks(path: Path) -> "Iterator[tuple[str, list[str], list[tuple[str, str]]]]":
    """Yields (place, statements, questions) for every block between blank lines."""
    place, statements, questions = "", list[str](), list[tuple[str, str]]()
    for here, line in [*_lines(path), ("", "")]:
        if line.startswith("- "):
            question, arrow, answer = line[2:].partition(" => ")
            if not arrow or not answer:
                raise ConfigError(f"{here}: expected '- question => answer', found {line!r}")
            questions.append((question, answer))
        elif line:
            place = place or here
            statements.append(line)
        elif statements:
            yield place, statements, questions
            place, statements, questions = "", [], []


def read_questions(path: Path) -> list[QuestionAnswer]:
    """Reads blocks of a context and its questions; an answer is its first place in the context.

    Raises `ConfigError` for a block with more than one context line or an answer not in it.
    """
    examples = []
    for place, statements, questions in _blocks(path):
        if len(statements) != 1 or not questions:
            raise ConfigError(f"{place}: expected one line of context and then questions")
        for question, answer in questions:
            start = statements[0].find(answer)
            if start < 0:
                raise ConfigError(f"{place}: the answer {answer!r} does not stand in the context")
            examples.append(QuestionAnswer(question, statements[0], start, start + len(answer)))
    return examples


def read_frames(path: Path) -> list[Frame]:
    """Reads blocks of sentence patterns and questions about them."""
    return [
        Frame(tuple(statements), tuple(questions)) for _, statements, questions in _blocks(path)
    ]


def read_lists(path: Path) -> dict[str, list[str]]:
    """Reads `[section]` heads followed by entries separated by commas or new lines."""
    lists: dict[str, list[str]] = {}
    section = ""
    for place, line in _lines(path):
        if line.startswith("["):
            section = line.strip("[]")
            lists[section] = []
        elif line and not section:
            raise ConfigError(f"{place}: expected a [section] before the first entry")
        elif line:
            lists[section] += [entry for part in line.split(",") if (entry := part.strip())]
    return lists


class Fillers:
    """Draws values for the slots of templates and frames from `names.txt` and `words.txt`."""

    def __init__(self, random: "np.random.Generator", folder: Path = DATA) -> None:
        self._random = random
        self._lists = read_lists(folder / "names.txt") | read_lists(folder / "words.txt")

    def draw(self, kind: str) -> str:
        """Returns a value for a slot such as `PER` or `YEAR`; raises `ConfigError` if unknown."""
        own = getattr(self, f"_{kind.lower()}", None)
        if own is not None:
            return str(own())
        if kind.lower() not in self._lists:
            raise ConfigError(f"unknown slot {{{kind}}}: no list named [{kind.lower()}]")
        return self._pick(kind.lower())

    def _pick(self, section: str) -> str:
        entries = self._lists[section]
        return entries[int(self._random.integers(len(entries)))]

    def _one_of(self, sections: dict[str, float]) -> str:
        return str(self._random.choice(list(sections), p=list(sections.values())))

    def _per(self) -> str:
        shape = self._one_of(
            {"full": 0.55, "first": 0.2, "last": 0.12, "famous": 0.08, "initial": 0.05}
        )
        first, last = self._pick("first"), self._pick("last")
        shapes = {
            "full": f"{first} {last}",
            "first": first,
            "last": last,
            "initial": f"{first[0]}. {last}",
        }
        return shapes[shape] if shape in shapes else self._pick("people")

    def _org(self) -> str:
        shape = self._one_of({"companies": 0.4, "institutions": 0.25, "made up": 0.35})
        if shape != "made up":
            return self._pick(shape)
        if self._random.random() < 0.25:
            return f"{self._pick('last')} & {self._pick('last')}"
        head = self._pick("last" if self._random.random() < 0.3 else "company_heads")
        return f"{head} {self._pick('company_tails')}"

    def _loc(self) -> str:
        return self._pick(self._one_of({"city": 0.45, "country": 0.35, "other_places": 0.2}))

    def _place(self) -> str:
        return self._pick("country" if self._random.random() < 0.5 else "other_places")

    def _number(self) -> str:
        if self._random.random() < 0.6:
            return str(self._random.choice(_NUMBER_WORDS))
        return str(self._random.integers(2, 10 ** self._random.integers(1, 5)) + 1)

    def _year(self) -> str:
        return str(self._random.integers(1700, 2025))

    def _time(self) -> str:
        hour = int(self._random.integers(1, 13))
        word = [*_NUMBER_WORDS[:11], "one"][hour - 2]
        return str(
            self._random.choice(
                [word, f"{word} o'clock", f"half past {word}", f"{hour}:30", f"{hour} p.m.", "noon"]
            )
        )

    def _money(self) -> str:
        unit = self._random.choice(["euros", "dollars", "pounds", "francs", "million dollars"])
        return f"{self._number()} {unit}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fill(pattern: str, values: dict[str, str]) -> str:
    return _SLOT.sub(lambda match: values[match["slot"]], pattern)


def tagged_from_templates(count: int, random: "np.random.Generator") -> list[TaggedSentence]:
    """Fills the sentence templates with names, `count` times; `the` stays outside a name."""
    templates = [line for _, line in _lines(DATA / "entities.templates.txt") if line]
    fillers = Fillers(random)

    def name(match: re.Match[str]) -> str:
        value = fillers.draw(match["kind"])
        article, bare = ("the ", value[4:]) if value.startswith("the ") else ("", value)
        return f"{article}[{bare}]({match['kind']})"

    picked = random.permutation(_round_robin(len(templates), count))
    return [parse_markup(_capitalised(_SLOT.sub(name, templates[index]))) for index in picked]


def synthetic_tagged(count: int, random: "np.random.Generator") -> list[TaggedSentence]:
    """Returns `count` filled templates and every second review, for none of them holds a name."""
    reviews = read_reviews(DATA / "sentiment.train.txt")[::2]
    nameless = [TaggedSentence(review.text, ()) for review in reviews]
    return tagged_from_templates(count, random) + nameless


def reviews_from_frames(count: int, random: "np.random.Generator") -> list[Review]:
    """Makes `count` reviews, negative and positive in turn; each pattern comes equally often."""
    frames = [line for _, line in _lines(DATA / "sentiment.frames.txt") if line]
    lists = read_lists(DATA / "sentiment.words.txt")
    topics = [name for name in lists if name[-1] not in _SIGNS]
    reviews = []
    for at in range(count):
        label = at % 2
        topic = topics[int(random.integers(len(topics)))]
        values = _review_values(lists, topic, label, random)
        reviews.append(Review(_capitalised(_fill(frames[at // 2 % len(frames)], values)), label))
    return reviews


def _review_values(
    lists: dict[str, list[str]], topic: str, label: int, random: "np.random.Generator"
) -> dict[str, str]:
    """Draws two different entries for each slot of `sentiment.frames.txt`."""
    same, opposite = ("+", "-") if label else ("-", "+")
    sections = {
        "IT": topic,
        "SAME": f"{topic} {same}",
        "OPPOSITE": f"{topic} {opposite}",
        "CLAUSE": f"clause {same}",
        "CONTRARY": f"clause {opposite}",
        "FELT": f"felt {same}",
        "VERY": f"very {same}",
    }
    values: dict[str, str] = {}
    for slot, section in sections.items():
        first, second = random.choice(len(lists[section]), size=2, replace=False)
        values |= {slot: lists[section][first], f"{slot}2": lists[section][second]}
    return values


def synthetic_reviews(count: int, random: "np.random.Generator") -> list[Review]:
    """Returns `count` filled patterns and the short remarks."""
    return reviews_from_frames(count, random) + read_reviews(DATA / "sentiment.remarks.txt")


def _round_robin(length: int, count: int) -> list[int]:
    """Returns `count` indices that go round `range(length)`, so that each comes equally often."""
    return [index % length for index in range(count)]


def _values(frame: Frame, fillers: Fillers, taken: set[str]) -> dict[str, str]:
    """Draws a value for every slot of the frame, none of them twice in one context."""
    values: dict[str, str] = {}
    for pattern in (*frame.sentences, *(text for pair in frame.questions for text in pair)):
        for match in _SLOT.finditer(pattern):
            while match["slot"] not in values:
                value = fillers.draw(match["kind"])
                if value.lower() not in taken:
                    taken.add(value.lower())
                    values[match["slot"]] = value
    return values


def questions_from_frames(count: int, random: "np.random.Generator") -> list[QuestionAnswer]:
    """Makes `count` questions about contexts of one to three facts.

    The other facts are distractors: often of the same frame, so that the names in the question
    decide, and not the form of the sentence.
    """
    frames = read_frames(DATA / "questions.frames.txt")
    fillers = Fillers(random)
    examples: list[QuestionAnswer] = []
    while len(examples) < count:
        frame = frames[len(examples) % len(frames)]
        taken: set[str] = set()
        values = _values(frame, fillers, taken)
        fact = _capitalised(_fill(str(random.choice(frame.sentences)), values))
        question, answer = frame.questions[int(random.integers(len(frame.questions)))]
        wanted = _fill(answer, values)
        at = fact.lower().find(wanted.lower())
        if at < 0:
            continue
        facts = [fact]
        for _ in range(int(random.choice(3, p=[0.45, 0.45, 0.1]))):
            same = "{" in question and random.random() < 0.5
            other = frame if same else frames[int(random.integers(len(frames)))]
            if other is frame and not same:
                continue
            pattern = str(random.choice(other.sentences))
            facts.append(_capitalised(_fill(pattern, _values(other, fillers, taken))))
        order = random.permutation(len(facts))
        context = " ".join(facts[index] for index in order)
        start = context.find(fact) + at
        examples.append(
            QuestionAnswer(_fill(question, values), context, start, start + len(wanted))
        )
    return examples
