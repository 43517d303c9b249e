"""Pictures and sound through the native handler: the same rooms as texts.

The expected answers are those of transformers' own pipelines, which still have these two tasks.
"""

import base64
import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import transformers
from PIL import Image

from flambeau.archive.graphs import Form
from flambeau.errors import ConfigError, ErrorKind, LoadError, PredictionError
from flambeau.handlers.export import export
from flambeau.handlers.export_request import ExportRequest
from flambeau.handlers.native_model import Device, load_parts
from flambeau.handlers.tune_request import TuneRequest
from flambeau.handlers.tuning import tune
from flambeau.testing.media_models import IMAGE_LABELS, tiny_image_model, tiny_speech_model
from flambeau.testing.native import ServedNative

RATE = 16_000


def picture(width: int, height: int, mode: str = "RGB", kind: str = "PNG") -> bytes:
    grid = np.indices((height, width)).sum(axis=0) * 255 // (width + height)
    file = io.BytesIO()
    Image.fromarray(grid.astype(np.uint8)).convert(mode).save(file, kind)
    return file.getvalue()


def sound(seconds: float, rate: int = RATE) -> npt.NDArray[np.float32]:
    """A tone that rises and stutters, so that the letters vary; samples that 16 bits can hold."""
    time = np.arange(int(seconds * rate)) / rate
    tone = 0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time) * np.sign(np.sin(40 * time))
    return (np.round(tone * 32_767) / 32_768).astype(np.float32)


def wav(samples: npt.NDArray[np.float32], rate: int = RATE, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(channels)
        written.setsampwidth(2)
        written.setframerate(rate)
        whole = np.round(samples * 32_768).astype("<i2")
        written.writeframes(np.repeat(whole, channels).tobytes())
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_model(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_speech_model(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def pictures(images: Path) -> ServedNative:
    return ServedNative(images)


@pytest.fixture(scope="module")
def ears(speech: Path) -> ServedNative:
    return ServedNative(speech)


def told(answer: Any) -> str:
    assert isinstance(answer, PredictionError), answer
    assert answer.kind is ErrorKind.INVALID_INPUT
    return answer.message


def test_pictures_are_classified_as_by_the_pipeline(images: Path, pictures: ServedNative) -> None:
    """Of any size, mode and kind of file; a list in one request is one batch."""
    files = [
        picture(50, 70),
        picture(20, 10, "L"),
        picture(64, 64, "RGBA"),
        picture(9, 90, kind="JPEG"),
    ]
    pipeline = transformers.pipeline(
        "image-classification",
        str(images),
        image_processor=transformers.AutoImageProcessor.from_pretrained(images, backend="pil"),
    )
    opened = [Image.open(io.BytesIO(file)) for file in files]
    parameters = {"top_k": 3, "function_to_apply": "sigmoid"}
    plain, chosen = pictures(
        {"inputs": [encoded(file) for file in files]},
        {"inputs": encoded(files[0]), "parameters": parameters},
    )
    assert [[each["label"] for each in one] for one in plain] == [
        [each["label"] for each in one] for one in pipeline(opened)
    ]
    assert [each["score"] for one in plain for each in one] == pytest.approx(
        [each["score"] for one in pipeline(opened) for each in one], abs=1e-5
    )
    expected = pipeline(opened[0], **parameters)
    assert [each["label"] for each in chosen] == [each["label"] for each in expected]
    assert [each["score"] for each in chosen] == pytest.approx(
        [each["score"] for each in expected], abs=1e-5
    )


def test_a_picture_is_sent_in_any_form(pictures: ServedNative) -> None:
    """The file as the body, its base64 in JSON, a data URL: one answer."""
    file = picture(40, 30)
    text = encoded(file)
    answers = pictures(
        file, {"inputs": text}, {"image": text}, {"inputs": f"data:image/png;base64,{text}"}
    )
    assert all(answer == answers[0] for answer in answers)
    (legacy,) = pictures(file, headers={"x-flambeau-output": "legacy"})
    assert legacy == pytest.approx({each["label"]: each["score"] for each in answers[0]}, abs=1e-5)
    assert set(legacy) == set(IMAGE_LABELS)


def test_wrong_pictures_are_told_apart(pictures: ServedNative) -> None:
    """Each says what is wrong; the neighbour is answered."""
    huge = Image.new("1", (20_000, 20_000))
    file = io.BytesIO()
    huge.save(file, "PNG")
    answers = pictures(
        picture(8, 8),
        b"\x89PNG but not really",
        {"inputs": "http://example.org/cat.png"},
        {"inputs": "no base64!"},
        {"inputs": 5},
        {"inputs": {"picture": "x"}},
        {"inputs": encoded(picture(8, 8)), "parameters": {"top_k": 0}},
        file.getvalue(),
    )
    assert isinstance(answers[0], list)
    reasons = ["cannot be read", "an address", "no base64", "not a number", "no 'image'", "'top_k'"]
    for answer, reason in zip(answers[1:], [*reasons, "pixels"], strict=True):
        assert reason in told(answer)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"return_timestamps": "char"},
        {"return_timestamps": "word"},
        {"chunk_length_s": 1},
        {"chunk_length_s": 0.7, "stride_length_s": 0.1, "return_timestamps": "word"},
    ],
)
def test_sound_is_transcribed_as_by_the_pipeline(
    speech: Path, ears: ServedNative, parameters: dict[str, Any]
) -> None:
    """At once or in windows, with and without times."""
    samples = sound(3)
    pipeline = transformers.pipeline("automatic-speech-recognition", str(speech))
    expected = pipeline({"raw": samples.copy(), "sampling_rate": RATE}, **parameters)
    raw = {"raw": samples.tolist(), "sampling_rate": RATE}
    body = {"inputs": encoded(wav(samples)), "parameters": parameters}
    answer, same = ears(body, {"inputs": raw, "parameters": parameters})
    assert answer == same
    assert answer["text"] == expected["text"]
    assert len(answer["text"]) > 10
    chunks = [{**each, "timestamp": list(each["timestamp"])} for each in expected.get("chunks", [])]
    assert answer.get("chunks", []) == chunks


def test_sound_of_other_rates_and_channels(ears: ServedNative) -> None:
    """A file at 44.1 kHz in stereo is mixed and resampled; its text is nearly the same."""
    plain, other = ears(wav(sound(2)), wav(sound(2, 44_100), 44_100, channels=2))
    assert abs(len(plain["text"]) - len(other["text"])) < 0.2 * len(plain["text"])


def test_long_sound_is_read_in_windows(ears: ServedNative) -> None:
    """Over a minute of sound is as many windows as are needed, and says so."""
    body = {"inputs": encoded(wav(sound(65))), "parameters": {"details": True}}
    (answer,) = ears(body)
    assert answer["usage"]["windows"] == 3
    assert not answer["usage"]["truncated"]
    assert answer["outputs"]["text"]


def test_wrong_sound_is_told_apart(ears: ServedNative) -> None:
    """Each says what is wrong and what is allowed."""
    raw = sound(0.5).tolist()
    cases: list[tuple[Any, str]] = [
        (b"RIFF nonsense", "cannot be read"),
        ({"inputs": {"raw": raw}}, "'sampling_rate' must be a whole number"),
        ({"inputs": {"raw": ["a"], "sampling_rate": RATE}}, "a list of numbers"),
        ({"inputs": {"raw": [], "sampling_rate": RATE}}, "not empty"),
        ({"inputs": {"raw": [1e300] * 800, "sampling_rate": RATE}}, "from -1 to 1"),
        ({"inputs": {"raw": [0.1] * 399, "sampling_rate": RATE}}, "the model needs 400"),
        ({"inputs": {"speech": "x"}}, "neither 'audio' nor 'raw'"),
        (
            {
                "inputs": {"raw": raw, "sampling_rate": RATE},
                "parameters": {"chunk_length_s": 1, "stride_length_s": 1},
            },
            "'chunk_length_s' must be more than two 'stride_length_s'",
        ),
        (
            {
                "inputs": {"raw": raw, "sampling_rate": RATE},
                "parameters": {"return_timestamps": True},
            },
            '\'return_timestamps\' must be "char" or "word"',
        ),
    ]
    answers = ears(*(body for body, _ in cases))
    for answer, (_, reason) in zip(answers, cases, strict=True):
        assert reason in told(answer)


def test_small_files_that_unpack_to_much_are_refused(
    pictures: ServedNative, ears: ServedNative
) -> None:
    """A picture too long for its width, sound in many tiny windows, too many samples a second."""
    thin = io.BytesIO()
    Image.new("1", (1, 20_000)).save(thin, "PNG")
    (picture_error,) = pictures(thin.getvalue())
    assert "one side at most 50 times as long" in told(picture_error)
    (too_many,) = pictures({"inputs": [encoded(picture(8, 8))] * 65})
    assert "at most 64" in told(too_many)
    windows = {"chunk_length_s": 0.5, "stride_length_s": 0.24}
    many, fast = ears(
        {"inputs": encoded(wav(sound(60))), "parameters": windows}, wav(sound(1), 400_000)
    )
    assert "frames in windows of 'chunk_length_s'" in told(many)
    assert "400000 samples a second" in told(fast)


def test_archives_without_a_preprocessor_are_refused(images: Path, tmp_path: Path) -> None:
    """The missing file is named, with the way out."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((images / name).read_bytes())
    with pytest.raises(LoadError, match=r"no preprocessor_config\.json.*--extra-files"):
        ServedNative(tmp_path)


def test_what_is_for_texts_alone_says_so(images: Path, tmp_path: Path) -> None:
    """A model of pictures has one engine: there is nothing to export it to, and nothing to tune."""
    form = Form("onnx", "fp32")
    request = ExportRequest(
        folder=images, task="image-classification", forms=(form,), output=tmp_path
    )
    with pytest.raises(LoadError, match="image-classification cannot be exported"):
        export(request)
    parts = load_parts(images, {}, {}, device=Device())
    with pytest.raises(ConfigError, match="image-classification models: there is nothing to tune"):
        tune(TuneRequest(archive=images, model_dir=images, threads=1), parts, lambda _: None)
