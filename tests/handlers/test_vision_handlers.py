"""The built-in handlers for images, over real small models (contract.md section 9.5)."""

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flambeau.errors import LoadError, PredictionError
from flambeau.handlers import image_transforms
from flambeau.handlers.ts.torch_handler.image_classifier import ImageClassifier
from flambeau.types import Chunk

Load = Any  # the fixture of conftest.py

COLOURS = """
    import torch
    class Colours(torch.nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))
"""
PIXELS = """
    import torch
    class Pixels(torch.nn.Module):
        def forward(self, images):
            return {"out": images[:, :, :2, :3] * 50}
"""
BOXES = """
    import torch
    class Boxes(torch.nn.Module):
        def forward(self, images):
            return [
                {
                    "boxes": torch.tensor([[0.0, 0.0, float(i.shape[2]), float(i.shape[1])]] * 3),
                    "labels": torch.tensor([1, 0, 1]),
                    "scores": torch.tensor([0.75, 0.25, 0.5]),
                }
                for i in images
            ]
"""
LABELS = '{"0": "red", "1": "green", "2": "blue"}'


def picture(colour: Any, size: tuple[int, int] = (300, 260), mode: str = "RGB") -> bytes:
    """A PNG file of one colour."""
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")
    return file.getvalue()


def classifier(load: Load, handler: str = "image_classifier", **more: Any) -> Any:
    files = {"model.py": COLOURS, "index_to_name.json": LABELS}
    return load(files, handler, manifest={"modelFile": "model.py"}, **more)


def test_classifier_answers_every_row(load: Load) -> None:
    """Bytes, base64 text and numbers in one batch; probabilities by label, best first."""
    red = base64.b64encode(picture((255, 0, 0))).decode()
    numbers = torch.zeros(3, 2, 2).index_fill(0, torch.tensor([2]), 5.0).tolist()
    served = classifier(load)
    answers = served.answer(picture((0, 255, 0)), red, served.item(numbers, field="data"))
    found = [json.loads(answer) for answer in answers]
    assert [next(iter(answer)) for answer in found] == ["green", "red", "blue"]
    assert set(found[0]) == {"red", "green", "blue"}
    assert sum(found[0].values()) == pytest.approx(1)


@pytest.mark.parametrize(("mode", "colour"), [("L", 200), ("RGBA", (9, 9, 9, 9)), ("P", 1)])
def test_pictures_that_are_not_rgb(load: Load, mode: str, colour: Any) -> None:
    """Grey, transparent and palette pictures are converted."""
    assert len(json.loads(classifier(load).answer(picture(colour, mode=mode))[0])) == 3


def test_one_bad_picture_harms_no_other(load: Load) -> None:
    """It gets status 400 and a reason; its neighbours are answered."""
    outcomes = classifier(load).run(picture("red"), b"no picture", picture("blue"))
    good, bad = outcomes[0][0], outcomes[1][0]
    assert isinstance(good, Chunk)
    assert isinstance(outcomes[2][0], Chunk)
    assert isinstance(bad, PredictionError)
    assert bad.status == 400
    assert "no image that can be read" in bad.message


def test_segmenter(load: Load) -> None:
    """[height][width][class, probability]."""
    files = {"model.py": PIXELS}
    served = load(files, "image_segmenter", manifest={"modelFile": "model.py"})
    pixels = json.loads(served.answer(picture("blue"))[0])
    assert pixels == [[[2.0, pytest.approx(1)]] * 3] * 2


def test_detector_takes_pictures_of_different_sizes(load: Load) -> None:
    """Boxes above the threshold, by label; sizes may differ within a batch."""
    files = {"model.py": BOXES, "index_to_name.json": LABELS}
    served = load(files, "object_detector", manifest={"modelFile": "model.py"})
    answers = served.answer(picture("red", (8, 6)), picture("red", (4, 4)))
    first = [
        {"green": [0.0, 0.0, 8.0, 6.0], "score": 0.75},
        {"green": [0.0, 0.0, 8.0, 6.0], "score": 0.5},
    ]
    assert json.loads(answers[0]) == first
    assert json.loads(answers[1])[0]["green"] == [0.0, 0.0, 4.0, 4.0]


def test_explanation(load: Load) -> None:
    """An explanation is for the row's own target, beside predictions of other rows."""
    numbers = torch.ones(3, 2, 2).tolist()
    served = classifier(load)
    item = served.item(numbers, {"explain": "True"}, field="data")
    predicted, explained = served.answer(numbers, item)
    assert len(json.loads(predicted)) == 3
    attributions = np.array(json.loads(explained))
    assert attributions.shape == (3, 2, 2)
    assert attributions[0].sum() == pytest.approx(1)
    assert attributions[1:].sum() == pytest.approx(0)


def test_own_classifier(load: Load) -> None:
    """A subclass sets `topk` and `image_processing`."""
    source = """
        from ts.torch_handler.image_classifier import ImageClassifier
        class Mine(ImageClassifier):
            image_processing = ImageClassifier.image_processing
            def initialize(self, context):
                super().initialize(context)
                self.set_max_result_classes(2)
    """
    files = {"my_handler.py": source, "model.py": COLOURS, "index_to_name.json": LABELS}
    served = load(files, manifest={"modelFile": "model.py"})
    assert next(iter(json.loads(served.answer(picture("red"))[0]))) == "red"
    assert len(json.loads(served.answer(picture("red"))[0])) == 2


def test_limit_of_pixels(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """limit_max_image_pixels=false lifts Pillow's limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    served = classifier(load)
    assert served.errors(picture("red"))[0].status == 400
    assert len(classifier(load, limit_max_image_pixels=False).answer(picture("red"))) == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)


def test_resize_and_crop_sizes() -> None:
    """The shorter side becomes 256 and the other is cut down; the middle is 224 square."""
    wide = Image.new("RGB", (641, 333))
    assert image_transforms.Resize(256)(wide).size == (int(256 * 641 / 333), 256)
    assert image_transforms.Resize(256)(wide.transpose(Image.Transpose.ROTATE_90)).size == (
        256,
        492,
    )
    assert image_transforms.Resize((10, 20))(wide).size == (20, 10)
    square = Image.new("RGB", (256, 256))
    assert image_transforms.Resize(256)(square) is square
    assert image_transforms.CenterCrop(224)(Image.new("RGB", (100, 300))).size == (224, 224)


def test_pixels_become_numbers() -> None:
    """ToTensor scales bytes to 0…1, channels first; Normalize centres each channel."""
    image = Image.new("RGB", (2, 1), (255, 0, 51))
    tensor = image_transforms.ToTensor()(image)
    assert tensor.shape == (3, 1, 2)
    assert tensor[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert image_transforms.ToTensor()(Image.new("1", (1, 1), 1)).item() == 1
    assert image_transforms.ToTensor()(Image.new("F", (1, 1), 7.5)).item() == 7.5
    centred = image_transforms.Normalize([1, 0, 0], [1, 1, 0.1])(tensor)
    assert centred[:, 0, 0].tolist() == pytest.approx([0, 0, 2])
    assert tensor[0, 0, 0] == 1
    assert [type(step).__name__ for step in ImageClassifier.image_processing.transforms][1:] == [
        "Resize",
        "CenterCrop",
        "ToTensor",
        "Normalize",
    ]


def test_without_captum_a_model_answers(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only explanations need captum, and say so."""
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    served = classifier(load)
    assert len(served.answer(picture("red"))) == 1
    assert served.errors(served.item(picture("red"), {"explain": "True"}))


def test_without_pillow(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the handler, the package and the way out."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "PIL.Image", raising=False)
    with pytest.raises(LoadError, match=r"ImageClassifier needs the package PIL.*pip install"):
        classifier(load)


@pytest.mark.parametrize(
    ("handler", "config", "message"),
    [
        ("vllm_handler", "handler: {model_path: m}", r"vllm_handler needs the package vllm.*pip"),
        ("vllm_handler", "handler: {}", "names no model"),
        (
            "trt_llm_handler",
            "handler: {engine_dir: e, tokenizer_dir: t}",
            r"trt_llm_handler needs the package tensorrt_llm.*pip",
        ),
        ("trt_llm_handler", "handler: {}", "lacks handler.engine_dir"),
        (
            "dali_image_classifier",
            "dali: {batch_size: 1, num_threads: 1, device_id: 0, seed: 1}",
            r"DALI needs .*nvidia.*pip install",
        ),
        ("dali_image_classifier", "dali: {seed: 1}", "lacks batch_size, num_threads, device_id"),
        ("dali_image_classifier", "handler: {}", "no section `dali`"),
    ],
)
def test_handlers_of_missing_libraries(load: Load, handler: str, config: str, message: str) -> None:
    """One line names what is missing, for which handler, and what to do."""
    with pytest.raises(LoadError, match=message) as caught:
        load({}, handler, config=config)
    assert "\n" not in str(caught.value)


def test_densenet_handler(load: Load, tmp_path: Path) -> None:
    """A saved tensor gives a saved tensor per row, without the other rows' data in it."""
    double = "import torch\nclass Double(torch.nn.Module):\n  def forward(self, x): return 2 * x"
    served = load({"model.py": double}, "densenet_handler", manifest={"modelFile": "model.py"})
    answers = served.answer(*(saved(torch.full((3,), value)) for value in (1.0, 2.0)))
    tensors = [torch.load(io.BytesIO(answer)) for answer in answers]
    assert [tensor.tolist() for tensor in tensors] == [[[2.0] * 3], [[4.0] * 3]]
    assert tensors[0].untyped_storage().nbytes() == 12


def test_densenet_handler_runs_no_code_of_a_request(load: Load) -> None:
    """A pickle that is more than tensors is refused with status 400."""
    served = load(
        {"model.py": "import torch\nclass M(torch.nn.Module):\n  def forward(self, x): return x"},
        "densenet_handler",
        manifest={"modelFile": "model.py"},
    )
    for body in (saved(torch.nn.Linear(1, 1)), b"junk", saved({"a": 1}), b""):
        assert served.errors(body)[0].status == 400


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
