"""NVIDIA DALI's pipeline for a handler (contract.md sections 4.2 and 9.7)."""

from pathlib import Path
from typing import Any

from flambeau.errors import LoadError
from flambeau.handlers.optional_packages import require

__all__ = ["get_dali_pipeline"]

_WAY_OUT = "pip install nvidia-dali-cuda120, or use the handler image_classifier"
_MEAN = [0.485 * 255, 0.456 * 255, 0.406 * 255]
_STD = [0.229 * 255, 0.224 * 255, 0.225 * 255]
_SETTINGS = ("batch_size", "num_threads", "device_id", "seed")


def get_dali_pipeline(ctx: Any) -> Any:
    """The pipeline that model-config.yaml's `dali` section describes.

    `pipeline_file` is a serialised pipeline of the archive; without it images are decoded, resized
    to 256, cropped to 224 and normalised as ImageNet models expect. LoadError says what is missing.
    """
    section = (ctx.model_yaml_config or {}).get("dali")
    if not isinstance(section, dict):
        raise LoadError(f"{ctx.model_name} has no section `dali` in its model-config.yaml.")
    missing = [key for key in _SETTINGS if key not in section]
    if missing:
        raise LoadError(f"The `dali` section of model-config.yaml lacks {', '.join(missing)}.")
    dali = require("nvidia.dali.pipeline", "Decoding images with DALI", _WAY_OUT)
    settings = {key: section[key] for key in _SETTINGS}
    if "pipeline_file" not in section:
        return _imagenet_pipeline(settings)
    path = Path(ctx.system_properties.get("model_dir")) / section["pipeline_file"]
    if not path.is_file():
        raise LoadError(f"The archive has no DALI pipeline file {section['pipeline_file']!r}.")
    return dali.Pipeline.deserialize(filename=str(path), prefetch_queue_depth=1, **settings)


def _imagenet_pipeline(settings: dict[str, Any]) -> Any:
    dali = require("nvidia.dali", "Decoding images with DALI", _WAY_OUT)
    pipeline = dali.Pipeline(prefetch_queue_depth=1, **settings)
    with pipeline:
        files = dali.fn.external_source(dtype=dali.types.UINT8, name="source")
        images = dali.fn.resize(
            dali.fn.decoders.image(files, device="mixed"),
            size=[256],
            mode="not_smaller",
            interp_type=dali.types.DALIInterpType.INTERP_LINEAR,
            antialias=True,
            subpixel_scale=False,
        )
        pipeline.set_outputs(
            dali.fn.crop_mirror_normalize(images, crop=(224, 224), mean=_MEAN, std=_STD)
        )
    pipeline.build()
    return pipeline
