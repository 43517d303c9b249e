"""FastAPI by hand: one text a forward pass, in the thread pool, as most people write it first."""

from classifier import Classifier
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
classify = Classifier()


class Body(BaseModel):
    """A request."""

    text: str


@app.post("/predict")
def predict(body: Body):
    """Runs in a thread, since it is no coroutine."""
    return {"label": classify([body.text])[0]}
