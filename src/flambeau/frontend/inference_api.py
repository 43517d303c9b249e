"""The inference API: the protocols of `inference_address`, in whichever process it is served."""

from flambeau.config import ServerConfig
from flambeau.protocols.health import Health, Probes
from flambeau.protocols.http import HttpProtocol
from flambeau.protocols.kserve import KServe, OpenInference
from flambeau.protocols.prediction import Predictor
from flambeau.protocols.predictions import Predictions
from flambeau.protocols.sagemaker import SageMaker
from flambeau.serving.inference import DataPlane


def inference_protocols(inference: DataPlane, config: ServerConfig) -> list[HttpProtocol]:
    """Every protocol that predicts, and the server's health."""
    predictor = Predictor(inference, config.max_request_size)
    protocols: list[HttpProtocol] = [
        Health(inference),
        Probes(inference),
        Predictions(predictor),
        SageMaker(predictor, inference),
        KServe(predictor),
    ]
    if config.ts_open_inference_protocol:
        protocols.append(OpenInference(inference))
    return protocols
