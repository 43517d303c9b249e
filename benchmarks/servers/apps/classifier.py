"""The model as LitServe, Ray Serve, MLServer and FastAPI get it: a padded batch of texts in, labels out."""

import os

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Classifier:
    """The folder is named by the variable BENCH_MODEL."""

    def __init__(self):
        folder = os.environ["BENCH_MODEL"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def __call__(self, texts):
        """The label of each text."""
        rows = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=512, return_tensors="pt"
        )
        with torch.inference_mode():
            best = self.model(**rows).logits.argmax(-1).tolist()
        return [self.model.config.id2label[index] for index in best]
