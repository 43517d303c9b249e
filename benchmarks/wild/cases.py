"""The handlers of a TorchServe checkout that can be answered here, each with a model made up here.

Nothing of the checkout is part of this repository: the cases only say where things lie in it.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

__all__ = ["CASES", "Case"]

Files = Mapping[str, bytes]
JSON = {"content-type": "application/json"}

COLOURS = b"""
import torch
class Colours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
    def forward(self, images):
        means = images.mean(dim=(2, 3)) * self.scale
        return torch.nn.functional.pad(means, (0, 2), value=-9.0)
"""
IDENTITY = b"import torch\nclass Foo(torch.nn.Module):\n  def forward(self, x): return x\n"
LINEAR = b"""
import torch
class Linear(torch.nn.Module):
    def forward(self, x):
        return x.sum(dim=1, keepdim=True)
"""
LABELS = b'{"0": "red", "1": "green", "2": "blue", "3": "none", "4": "other"}'


class Case(NamedTuple):
    """One handler: its file in the checkout, what is packed beside it, what is asked.

    `files` makes the archive's files from the checkout; `requests` are keyword arguments of
    `httpx.post`; `check` gets the answers. `handler` "" means a built-in one, named in `model`.
    """

    name: str
    handler: str
    files: Callable[[Path], Files]
    requests: list[dict[str, Any]]
    check: Callable[[list[httpx.Response]], bool]
    model: Mapping[str, str] = {}
    config: str = ""
    path: str = ""
    string: int = 0  # the handler is this string constant (from 1) of the file


def picture(colour: Any, mode: str = "RGB", size: int = 32) -> bytes:
    """A PNG file of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, (size, size), colour).save(file, "PNG")
    return file.getvalue()


def base64_text(colour: Any) -> str:
    """The same, in base64 text."""
    return base64.b64encode(picture(colour)).decode()


def saved(value: object) -> bytes:
    """What `torch.save` writes."""
    import torch

    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def own_model(checkout: Path, file: str, name: str, *arguments: object) -> Any:
    """An instance of a model class of the checkout, with random weights."""
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile((checkout / file).read_text(), file, "exec"), namespace)
    return namespace[name](*arguments)


def mnist(checkout: Path) -> Files:
    """The example's network with random weights."""
    file = "examples/image_classifier/mnist/mnist.py"
    weights = saved(own_model(checkout, file, "Net").state_dict())
    return {"mnist.py": (checkout / file).read_bytes(), "mnist_cnn.pt": weights}


def colours(_: Path) -> Files:
    """A classifier that answers with the strongest colour."""
    import torch

    weights = saved({"scale": torch.tensor(1.0)})
    return {"model.py": COLOURS, "model.pt": weights, "index_to_name.json": LABELS}


def torchvision_model(file: str, name: str) -> Callable[[Path], Files]:
    """A model class of the checkout that is made of torchvision's, with random weights."""

    def files(checkout: Path) -> Files:
        source = (checkout / file).read_bytes()
        return {"model.py": source, "model.pt": saved(own_model(checkout, file, name).state_dict())}

    return files


def sentiment(checkout: Path) -> Files:
    """The text classification example with a small vocabulary."""
    source = (checkout / "examples/text_classification/model.py").read_text()
    source = source.replace("vocab_size=1308843", "vocab_size=8")
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(source, namespace)
    words = {word: index for index, word in enumerate(["<unk>", "the", "a", "world", "business"])}
    return {
        "model.py": source.encode(),
        "model.pt": saved(namespace["TextSentiment"]().state_dict()),
        "source_vocab.pt": saved(words),
        "index_to_name.json": (
            checkout / "examples/text_classification/index_to_name.json"
        ).read_bytes(),
    }


def only(name: str, content: bytes) -> Callable[[Path], Files]:
    """One file."""
    return lambda _: {name: content}


def good(answers: list[httpx.Response]) -> bool:
    """All answered with 200."""
    return all(answer.status_code == 200 for answer in answers)


def digits(answers: list[httpx.Response]) -> bool:
    """All answered with a digit."""
    return good(answers) and all(0 <= int(answer.text) < 10 for answer in answers)


def texts(*expected: str) -> Callable[[list[httpx.Response]], bool]:
    """All answered with these texts."""
    return lambda answers: good(answers) and [answer.text for answer in answers] == list(expected)


def reds(answers: list[httpx.Response]) -> bool:
    """All answered with probabilities, red first."""
    return good(answers) and all(next(iter(answer.json())) == "red" for answer in answers)


def top_five(answers: list[httpx.Response]) -> bool:
    """All answered with five classes."""
    return good(answers) and all(len(answer.json()) == 5 for answer in answers)


def frames(answers: list[httpx.Response]) -> bool:
    """Answered with the classes of each of two frames."""
    return good(answers) and [next(iter(one)) for one in answers[0].json()] == ["red", "blue"]


MNIST = {"modelFile": "mnist.py", "serializedFile": "mnist_cnn.pt"}
EAGER = {"modelFile": "model.py", "serializedFile": "model.pt"}
DIGIT = [{"content": picture(value, "L", 28)} for value in (0, 255)]
RED = [{"content": picture((255, 0, 0))}, {"files": {"data": picture((255, 0, 0))}}]
TEXT = [{"content": text} for text in ("Business of the world", "a b c")]

CASES = [
    Case("mnist", "examples/image_classifier/mnist/mnist_handler.py", mnist, DIGIT, digits, MNIST),
    Case("custom-metrics", "examples/custom_metrics/mnist_handler.py", mnist, DIGIT, digits, MNIST),
    Case(
        "micro-batching",
        "examples/micro_batching/micro_batching_handler.py",
        colours,
        RED * 8,
        reds,
        EAGER,
        "batchSize: 32\nmicro_batching: {micro_batch_size: 4, parallelism: {preprocess: 2}}\n",
    ),
    Case("vgg-16", "examples/image_classifier/vgg_16/vgg_handler.py", colours, RED, reds, EAGER),
    Case(
        "inductor-cache",
        "examples/pt2/torch_inductor_caching/caching_handler.py",
        colours,
        RED,
        reds,
        EAGER,
        "pt2: {compile: {enable: true, backend: inductor}}\n"
        "handler: {torch_inductor_caching: {torch_inductor_fx_graph_cache: true}}\n",
    ),
    Case(
        "near-real-time-video",
        "examples/image_classifier/near_real_time_video/near_real_time_video_handler.py",
        colours,
        [{"json": {"0": base64_text((255, 0, 0)), "1": base64_text((0, 0, 255))}}],
        frames,
        EAGER,
    ),
    Case(
        "cat-or-dog",
        "examples/Workflows/dog_breed_classification/cat_dog_classification_handler.py",
        only("model.py", COLOURS),
        [{"content": base64_text((0, 255, 0))}],
        texts("dog"),
        {"modelFile": "model.py"},
    ),
    Case(
        "workflow-function",
        "examples/Workflows/dog_breed_classification/workflow_dog_breed_classification_handler.py",
        only("none", b""),
        [{"content": b"abc"}],
        texts("YWJj"),
        {"entry": "pre_processing"},
    ),
    Case("text-classification", "", sentiment, TEXT, good, {"handler": "text_classifier", **EAGER}),
    Case("image-classifier", "", colours, RED, reds, {"handler": "image_classifier", **EAGER}),
    *(
        Case(
            folder.replace("_", "-"),
            "",
            torchvision_model(f"examples/image_classifier/{folder}/model.py", "ImageClassifier"),
            RED,
            top_five,
            {"handler": "image_classifier", **EAGER},
        )
        for folder in ("alexnet", "resnet_18", "densenet_161")
    ),
    Case(
        "sequence-batching",
        "examples/stateful/sequence_batching/stateful_handler.py",
        mnist,
        [{"content": n, "headers": {"ts_request_sequence_id": "s1"}} for n in ("1", "2", "4")],
        texts("1", "3", "7"),
        MNIST,
        "sequenceBatching: true\nbatchSize: 4\nmaxNumSequence: 4\nhandler: {cache: {capacity: 4}}\n",
    ),
    Case(
        "continuous-batching",
        "examples/stateful/sequence_continuous_batching/stateful_handler.py",
        only("none", b""),
        [
            {"content": n, "headers": {"ts_request_sequence_id": "s1", **start}}
            for n, start in (("2", {"ts_request_sequence_start": "true"}), ("4", {}), ("0", {}))
        ],
        texts("2", "6", "6"),
        {},
        "sequenceBatching: true\ncontinuousBatching: true\nbatchSize: 2\nmaxNumSequence: 2\n"
        "sequenceMaxIdleMSec: 5000\nhandler: {cache: {capacity: 4}}\n",
    ),
    Case(
        "profiler",
        "test/pytest/profiler_utils/resnet_custom.py",
        colours,
        RED,
        reds,
        EAGER,
    ),
    Case(
        "compile",
        "test/pytest/test_data/torch_compile/compile_handler.py",
        only("model.py", LINEAR),
        [{"content": json.dumps({"instances": [[1, 1], [1, 2], [2, 2]]}), "headers": JSON}],
        texts("4.0"),
        {"modelFile": "model.py"},
        "pt2: {compile: {enable: true, backend: eager}}\n",
    ),
    Case(
        "async",
        "test/pytest/test_async_worker_comm.py",
        mnist,
        DIGIT,
        digits,
        MNIST,
        "asyncCommunication: true\nbatchSize: 1\n",
        string=1,
    ),
    Case(
        "intermediate-answers",
        "test/pytest/test_send_intermediate_prediction_response.py",
        only("none", b""),
        [{"content": b""}],
        texts("hello" * 3 + "hello world "),
        string=1,
    ),
    Case(
        "url-path",
        "test/pytest/test_url_path.py",
        only("none", b""),
        [{"content": b""}],
        texts("v1/chat/completions"),
        path="/1.0/v1/chat/completions",
        string=1,
    ),
    Case(
        "model-config",
        "test/pytest/test_model_config.py",
        only("model.py", IDENTITY),
        [{"content": b"42"}],
        texts("42"),
        {"modelFile": "model.py"},
        string=2,
    ),
]
