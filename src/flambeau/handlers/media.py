"""Pictures and sound as the arrays that a model reads.

What a picture is scaled, cut and normalised to says the model's `preprocessor_config.json`;
Transformers' image processors follow it with Pillow alone, its feature extractors with numpy.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flambeau.errors import LoadError, PredictionError, first_line, invalid_input
from flambeau.handlers.limits import MAX_REQUEST_TOKENS
from flambeau.handlers.optional_packages import require
from flambeau.handlers.settings import read_json_object
from flambeau.tasks.base import MAX_RATE, AudioInput, Encoding, ImageInput, Reading, Row, WindowRule

MAX_PIXELS = 40_000_000
"""The largest picture: a small file can unpack to gigabytes."""
MAX_RATIO = 50
"""Of a picture's sides: models that scale the shorter one make the longer one as much longer."""

MAX_SECONDS = 1_200
"""The longest sound that is read."""

WHOLE_SECONDS = 60
"""Sound up to so long is read at once unless its request says otherwise: attention costs the square."""

WINDOW_SECONDS = 30

_PREPROCESSOR = "preprocessor_config.json"
_BLOCK_SAMPLES = 1_000_000
_PIXELS_PER_TOKEN = 16 * 16
"""Of a vision transformer; others cost about as much."""


class RowReader(Protocol):
    """What makes rows of a task's inputs: a tokenizer, or one of the readers here."""

    max_length: int
    pad_id: int | None
    eos_id: int | None

    def characters(self, row: Any, rule: WindowRule) -> int:
        """How many characters are tokenised of a row."""

    def encode(
        self, rows: Sequence[Any], rules: Sequence[WindowRule] = ()
    ) -> list[Reading | PredictionError]:
        """Each row by its rule; one that cannot be read is an error of its own."""


class _Media:
    """What readers of pictures and sound have in common: no tokens."""

    pad_id: int | None = None
    eos_id: int | None = None

    def characters(self, row: Row, rule: WindowRule) -> int:  # noqa: ARG002 - see `RowReader`
        """None: files have limits of their own."""
        return 0


class ImageReader(_Media):
    """Pictures to pixel values."""

    def __init__(self, process: Callable[..., Any], max_length: int) -> None:
        """`process` is one of Transformers' image processors."""
        self.max_length = max_length
        self._process = process
        self._pillow = require(
            "PIL.Image", "A model of pictures", "pip install 'flambeau[vision]'."
        )

    def encode(
        self,
        rows: Sequence[Row],
        rules: Sequence[WindowRule] = (),  # noqa: ARG002 - a picture always fits
    ) -> list[Reading | PredictionError]:
        """See `RowReader`."""
        return [self._read(row) for row in rows]

    def _read(self, row: Row) -> Reading | PredictionError:
        assert isinstance(row, ImageInput)
        try:
            with warnings.catch_warnings():  # Pillow only warns up to twice the bound
                warnings.simplefilter("error", self._pillow.DecompressionBombWarning)
                image = self._pillow.open(io.BytesIO(row.data))
                width, height = image.size
                if width * height > MAX_PIXELS or max(width, height) > MAX_RATIO * min(
                    width, height
                ):
                    return invalid_input(
                        f"the picture has {width} x {height} pixels; at most {MAX_PIXELS} are read,"
                        f" and one side at most {MAX_RATIO} times as long as the other"
                    )
                image = image.convert("RGB")
        except (self._pillow.DecompressionBombError, self._pillow.DecompressionBombWarning):
            return invalid_input(f"the picture has more than {MAX_PIXELS} pixels")
        except Exception as error:  # noqa: BLE001 - Pillow's decoders raise whatever they meet
            return invalid_input(f"the picture cannot be read ({type(error).__name__})")
        made = self._process(images=image, return_tensors="np")
        arrays = {name: np.ascontiguousarray(array[0]) for name, array in made.items()}
        pixels = int(np.prod(arrays["pixel_values"].shape[-2:]))
        return _whole(arrays, max(1, pixels // _PIXELS_PER_TOKEN))


class AudioReader(_Media):
    """Sound to samples at the model's rate, long ones in overlapping windows."""

    def __init__(self, extract: Callable[..., Any], rate: int, ratio: int, shortest: int) -> None:
        """`extract` is one of Transformers' feature extractors.

        `ratio` is how many samples a frame has, `shortest` how many the first one needs.
        """
        self.max_length = MAX_SECONDS * rate // ratio
        self._extract = extract
        self._rate = rate
        self._ratio = ratio
        self._shortest = shortest
        way_out = "pip install 'flambeau[audio]'."
        self._files = require("soundfile", "A model of sound", way_out)
        self._resampler = require("soxr", "A model of sound", way_out)

    def encode(
        self, rows: Sequence[Row], rules: Sequence[WindowRule] = ()
    ) -> list[Reading | PredictionError]:
        """See `RowReader`."""
        given = rules or [WindowRule()] * len(rows)
        return [self._read(row, rule) for row, rule in zip(rows, given, strict=True)]

    def _read(self, row: Row, rule: WindowRule) -> Reading | PredictionError:
        assert isinstance(row, AudioInput)
        try:
            samples = self._samples(row)
            return self._reading(samples, self._spans(len(samples), rule))
        except PredictionError as error:
            return error
        except Exception as error:  # noqa: BLE001 - as with pictures
            return invalid_input(f"the sound cannot be read ({type(error).__name__})")

    def _spans(self, count: int, rule: WindowRule) -> list[tuple[int, int]]:
        """The windows of so many samples. Raises `PredictionError`."""
        if count < self._shortest:
            raise invalid_input(
                f"the sound has {count} samples at {self._rate} Hz; the model needs"
                f" {self._shortest}"
            )
        length, stride = rule.max_length, rule.stride
        if length is None and count > WHOLE_SECONDS * self._rate:
            length = WINDOW_SECONDS * self._rate
        if length is None:
            return [(0, count)]
        length = max(self._shortest, self._aligned(length))
        stride = self._aligned(length // 6 if stride is None else stride)
        if length <= 2 * stride:
            raise invalid_input("'chunk_length_s' must be more than two 'stride_length_s'")
        starts = range(0, count, length - 2 * stride)
        cost = len(starts) * (length // self._ratio)
        if cost > MAX_REQUEST_TOKENS:
            raise invalid_input(
                f"the sound costs {cost} frames in windows of 'chunk_length_s'; one request may cost"
                f" at most {MAX_REQUEST_TOKENS}: set a smaller 'stride_length_s', or a larger"
                " 'chunk_length_s'"
            )
        spans = []
        for start in starts:
            end = min(start + length, count)
            if not start or end - start > max(stride, self._shortest):
                spans.append((start, end))
            if end == count:
                break
        return spans

    def _aligned(self, samples: int) -> int:
        return round(samples / self._ratio) * self._ratio

    def _samples(self, row: AudioInput) -> npt.NDArray[np.float32]:
        if row.data:
            with self._files.SoundFile(io.BytesIO(row.data)) as file:
                rate = file.samplerate
                _check_seconds(file.frames / rate)
                if rate > MAX_RATE:
                    raise invalid_input(
                        f"the sound has {rate} samples a second; at most {MAX_RATE}"
                    )
                return self._mixed(file)
        else:
            rate = row.rate
            _check_seconds(len(row.samples) / rate)
            samples = np.asarray(row.samples, dtype=np.float32)
        if rate != self._rate:
            samples = self._resampler.resample(samples, rate, self._rate)
        return np.asarray(samples, dtype=np.float32)

    def _mixed(self, file: Any) -> npt.NDArray[np.float32]:
        """A file's samples at the model's rate, its channels as one; read in parts, since a small
        file can unpack to gigabytes."""
        stream = self._resampler.ResampleStream(file.samplerate, self._rate, 1, dtype="float32")
        parts = []
        size = max(1, _BLOCK_SAMPLES // file.channels)
        for block in file.blocks(blocksize=size, dtype="float32", always_2d=True):
            mixed = np.ascontiguousarray(block.mean(axis=1))
            parts.append(mixed if file.samplerate == self._rate else stream.resample_chunk(mixed))
        if file.samplerate != self._rate:
            parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _reading(self, samples: npt.NDArray[np.float32], spans: list[tuple[int, int]]) -> Reading:
        windows = []
        for start, end in spans:
            made = self._extract(samples[start:end], sampling_rate=self._rate, return_tensors="np")
            arrays = {
                name: np.ascontiguousarray(array[0])
                for name, array in made.items()
                if name != "attention_mask"  # only equal lengths go together
            }
            cost = max(1, (end - start) // self._ratio)
            windows.append(Encoding([], [], [], [(start, end)], [], [], arrays=arrays, cost=cost))
        return Reading(windows, sum(map(len, windows)), 0)


def load_image_reader(model_dir: Path) -> ImageReader:
    """The reader of an unpacked archive. Raises `LoadError`."""
    require("PIL.Image", "A model of pictures", "pip install 'flambeau[vision]'.")
    from transformers import AutoImageProcessor

    _require_file(model_dir)
    try:
        process = AutoImageProcessor.from_pretrained(
            model_dir, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise LoadError(f"{_PREPROCESSOR} cannot be used: {first_line(error)}") from error
    return ImageReader(process, 1)


def load_audio_reader(model_dir: Path, config: Mapping[str, object]) -> AudioReader:
    """The reader of an unpacked archive; `config` is the model's. Raises `LoadError`."""
    from transformers import AutoFeatureExtractor

    _require_file(model_dir)
    try:
        extract = AutoFeatureExtractor.from_pretrained(
            model_dir, local_files_only=True, trust_remote_code=False
        )
        rate = int(extract.sampling_rate)
    except Exception as error:
        raise LoadError(f"{_PREPROCESSOR} cannot be used: {first_line(error)}") from error
    strides, kernels = config.get("conv_stride"), config.get("conv_kernel")
    if not isinstance(strides, list) or not isinstance(kernels, list):
        raise LoadError(
            f"{config.get('model_type')} models are not supported: their configuration has no"
            " conv_stride, as Wav2Vec2's, HuBERT's and their kind's have."
        )
    shortest = 1
    for stride, kernel in zip(reversed(strides), reversed(kernels), strict=True):
        shortest = (shortest - 1) * stride + kernel
    return AudioReader(extract, rate, int(np.prod(strides)), shortest)


def _require_file(model_dir: Path) -> None:
    if not read_json_object(model_dir / _PREPROCESSOR):
        raise LoadError(
            f"The archive has no {_PREPROCESSOR}, which says how a model's inputs are scaled. Add"
            " it (--extra-files), or save it with the processor's save_pretrained."
        )


def _check_seconds(seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise invalid_input(
            f"the sound is {seconds:.0f} seconds long; at most {MAX_SECONDS} are read"
        )


def _whole(arrays: dict[str, npt.NDArray[np.float32]], cost: int) -> Reading:
    window = Encoding([], [], [], [], [], [], arrays=arrays, cost=cost)
    return Reading([window], cost, 0)
