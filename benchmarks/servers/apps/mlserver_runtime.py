"""MLServer: a runtime of its own kind, with its adaptive batching (model-settings.json)."""

from classifier import Classifier
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceResponse


class Runtime(MLModel):
    """Sequence classification."""

    async def load(self):
        self.classify = Classifier()
        return True

    async def predict(self, payload):
        texts = StringCodec.decode_input(payload.inputs[0])
        output = StringCodec.encode_output("label", self.classify(texts))
        return InferenceResponse(model_name=self.name, outputs=[output])
