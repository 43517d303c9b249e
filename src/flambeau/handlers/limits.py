"""What one request may ask of a native model."""

MAX_REQUEST_TOKENS = 65_536
"""What a request's rows may cost, in tokens read and generated: 128 texts of 512 tokens.

The answer to a list comes when its last entry is done: it has to fit into a response timeout (120
seconds by default). A model of BERT-base's size needs about 11 TFLOP for as much (two per weight and
token, 85 million weights).
"""

MAX_ROWS = 4_000
"""The most rows that one request's entries may make."""

MAX_REQUEST_CHARS = 4_000_000
"""The most characters that are tokenised for one request, before its tokens can be counted."""
