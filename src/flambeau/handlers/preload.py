"""What the zygote imports before it forks, so that no worker pays for it.

Loading a first model imports about a thousand modules beyond `import transformers` (2.2 s of CPU on
2026-11-23, 2-core AMD EPYC); with those listed here a fork loads a small model in 0.07 s.
"""

import torch
import transformers
import transformers.generation
import transformers.modeling_utils
import transformers.models.auto.modeling_auto
import transformers.models.bert.modeling_bert
import transformers.models.distilbert.modeling_distilbert
import transformers.models.gpt2.modeling_gpt2
import transformers.models.roberta.modeling_roberta

import flambeau.engines.torch
import flambeau.handlers.native

__all__ = ["flambeau", "torch", "transformers"]
