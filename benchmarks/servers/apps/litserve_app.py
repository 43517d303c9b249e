"""LitServe: batches of 8, at most 50 ms late."""

import sys

import litserve
from classifier import Classifier


class Api(litserve.LitAPI):
    """Sequence classification."""

    def setup(self, device):
        self.classify = Classifier()

    def decode_request(self, request):
        return request["text"]

    def predict(self, texts):
        return self.classify(texts)

    def encode_response(self, output):
        return {"label": output}


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.05)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
