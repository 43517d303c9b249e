"""Ray Serve: one replica, batches of 8, at most 50 ms late."""

import os
import sys

import ray
from classifier import Classifier
from ray import serve


@serve.deployment(max_ongoing_requests=100)
class Model:
    """Sequence classification."""

    def __init__(self):
        self.classify = Classifier()

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.05)
    async def classify_all(self, texts):
        return self.classify(texts)

    async def __call__(self, request):
        document = await request.json()
        return {"label": await self.classify_all(document["text"])}


if __name__ == "__main__":
    path = {"PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {**path, "BENCH_MODEL": os.environ["BENCH_MODEL"]}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Model.bind(), blocking=True)
