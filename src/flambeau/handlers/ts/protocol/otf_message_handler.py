"""The older home of `send_intermediate_predict_response`; users' code still imports it."""

from flambeau.handlers.ts.handler_utils.utils import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
