"""
SCMM: find the images of a person from a sentence.

Names load on first use, so that `import scmm` is quick; transformers' auto classes know SCMM as soon as this is
imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import auto_registration


if TYPE_CHECKING:
    from .caption_quality import CaptionQuality
    from .configuration import SCMMConfig, SCMMTextConfig, SCMMVisionConfig
    from .data.benchmarks import load_benchmark
    from .data.collator import SCMMDataCollator
    from .losses import SCMMLoss
    from .modeling_scmm import SCMMForPreTraining, SCMMModel
    from .processing import SCMMProcessor
    from .retrieval.encode import encode_dataset
    from .retrieval.gallery import Gallery
    from .retrieval.metrics import retrieval_metrics
    from .trainer import SCMMTrainer
    from .training_arguments import SCMMTrainingArguments

__version__ = "0.1.0"

_MODULE_OF = {
    "CaptionQuality": "caption_quality",
    "Gallery": "retrieval.gallery",
    "SCMMConfig": "configuration",
    "SCMMDataCollator": "data.collator",
    "SCMMForPreTraining": "modeling_scmm",
    "SCMMLoss": "losses",
    "SCMMModel": "modeling_scmm",
    "SCMMProcessor": "processing",
    "SCMMTextConfig": "configuration",
    "SCMMTrainer": "trainer",
    "SCMMTrainingArguments": "training_arguments",
    "SCMMVisionConfig": "configuration",
    "encode_dataset": "retrieval.encode",
    "load_benchmark": "data.benchmarks",
    "retrieval_metrics": "retrieval.metrics",
}

__all__ = [
    "CaptionQuality",
    "Gallery",
    "SCMMConfig",
    "SCMMDataCollator",
    "SCMMForPreTraining",
    "SCMMLoss",
    "SCMMModel",
    "SCMMProcessor",
    "SCMMTextConfig",
    "SCMMTrainer",
    "SCMMTrainingArguments",
    "SCMMVisionConfig",
    "encode_dataset",
    "load_benchmark",
    "retrieval_metrics",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'scmm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


auto_registration.install()
