"""TorchServe: what its Transformers example does, in calls that transformers 5 still has.

Every text is padded to 150 tokens, the batch is concatenated, and the label is the answer.
"""

import json
import os

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from ts.torch_handler.base_handler import BaseHandler

MAX_LENGTH = 150


class Handler(BaseHandler):
    """Sequence classification."""

    def initialize(self, ctx):
        folder = ctx.system_properties.get("model_dir")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with open(os.path.join(folder, "index_to_name.json")) as file:
            self.mapping = json.load(file)
        self.initialized = True

    def preprocess(self, requests):
        rows = []
        for data in requests:
            text = data.get("data") or data.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            rows.append(
                self.tokenizer(
                    text,
                    max_length=MAX_LENGTH,
                    padding="max_length",
                    truncation=True,
                    add_special_tokens=True,
                    return_tensors="pt",
                )
            )
        return tuple(
            torch.cat([row[key] for row in rows], 0) for key in ("input_ids", "attention_mask")
        )

    def inference(self, input_batch):
        with torch.inference_mode():
            logits = self.model(input_batch[0], attention_mask=input_batch[1])[0]
        return [self.mapping[str(each.argmax().item())] for each in logits]

    def postprocess(self, inference_output):
        return inference_output
