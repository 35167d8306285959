"""Bottleneck features of image collections, as a batch job on Ray.

>>> import bottleneck as bn
>>> bn.extract(bn.ExtractConfig(images="photos/", features="photo-features"))
>>> bn.FeaturesTable.open("photo-features").snapshot().rows

``__all__`` lists the public names; everything else may change between releases. Each name is
loaded on first use, so that importing this package loads neither Ray nor Keras.

pandas imports an optional accelerator that is also called ``bottleneck`` and would take this
package for it. It checks ``__version__``: without one ``import pandas`` fails, from 1.5.0 on it
would call functions that do not exist here, below that it warns and continues without. So the
version stays below 1.5, and the warning, which would greet users in every process, is silenced
here: pandas imports this package before it warns.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from bottleneck.version import __version__

if TYPE_CHECKING:
    from bottleneck import errors
    from bottleneck.backbones.backbone import Backbone
    from bottleneck.backbones.config import BackboneConfig
    from bottleneck.backbones.few_images import features_of
    from bottleneck.errors import BottleneckError
    from bottleneck.evaluation.evaluate import evaluate
    from bottleneck.evaluation.figures import Evaluation
    from bottleneck.extraction.config import ExtractConfig
    from bottleneck.extraction.job import extract
    from bottleneck.images.decoding import Decoded, decode
    from bottleneck.images.options import DecodeOptions
    from bottleneck.models.classifier import Classifier, load_model
    from bottleneck.models.heads import HeadConfig, build_head
    from bottleneck.prediction.config import PredictConfig
    from bottleneck.prediction.job import predict
    from bottleneck.sources.listing import list_images
    from bottleneck.sources.rows import Listing
    from bottleneck.spec import FeatureSpec, PredictionSpec
    from bottleneck.status.config import StatusConfig
    from bottleneck.status.history import table_status
    from bottleneck.table.snapshot import Snapshot
    from bottleneck.table.table import FeaturesTable, PredictionsTable
    from bottleneck.training.config import TrainConfig
    from bottleneck.training.job import train


__all__ = [
    "Backbone",
    "BackboneConfig",
    "BottleneckError",
    "Classifier",
    "DecodeOptions",
    "Decoded",
    "Evaluation",
    "ExtractConfig",
    "FeatureSpec",
    "FeaturesTable",
    "HeadConfig",
    "Listing",
    "PredictConfig",
    "PredictionSpec",
    "PredictionsTable",
    "Snapshot",
    "StatusConfig",
    "TrainConfig",
    "__version__",
    "build_head",
    "decode",
    "errors",
    "evaluate",
    "extract",
    "features_of",
    "list_images",
    "load_model",
    "predict",
    "table_status",
    "train",
]

#: Module of each public name, below this package; ``errors`` is a module itself.
_MODULES = {
    "Backbone": "backbones.backbone",
    "BackboneConfig": "backbones.config",
    "BottleneckError": "errors",
    "Classifier": "models.classifier",
    "DecodeOptions": "images.options",
    "Decoded": "images.decoding",
    "Evaluation": "evaluation.figures",
    "ExtractConfig": "extraction.config",
    "FeatureSpec": "spec",
    "FeaturesTable": "table.table",
    "HeadConfig": "models.heads",
    "Listing": "sources.rows",
    "PredictConfig": "prediction.config",
    "PredictionSpec": "spec",
    "PredictionsTable": "table.table",
    "Snapshot": "table.snapshot",
    "StatusConfig": "status.config",
    "TrainConfig": "training.config",
    "build_head": "models.heads",
    "decode": "images.decoding",
    "errors": "errors",
    "evaluate": "evaluation.evaluate",
    "extract": "extraction.job",
    "features_of": "backbones.few_images",
    "list_images": "sources.listing",
    "load_model": "models.classifier",
    "predict": "prediction.job",
    "table_status": "status.history",
    "train": "training.job",
}

warnings.filterwarnings(
    "ignore",
    message=r"Pandas requires version '[^']*' or newer of 'bottleneck'",
    category=UserWarning,
)


# Type checkers see the imports above; with this function they would accept any name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Loads a public name on first use; other names do not exist, as pandas expects."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        value = globals()[name] = module if name == "errors" else getattr(module, name)
        return value


def __dir__() -> list[str]:
    """Lists the public names beside what a module always has."""
    return sorted({*globals(), *__all__})
