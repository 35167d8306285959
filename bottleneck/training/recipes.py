"""Recipes: named sets of training settings."""

from __future__ import annotations

from typing import Any

#: What a recipe sets unless the same flag is given beside it.
RECIPES: dict[str, dict[str, Any]] = {
    "none": {},
    # F. Chollet, "Building powerful image classification models using very little data"
    # (The Keras Blog, 2016): bottleneck features, Dense 256, Dropout 0.5, RMSprop.
    "keras-blog": {
        "head": "mlp",
        "hidden": (256,),
        "dropout": 0.5,
        "optimizer": "rmsprop",
        "learning_rate": 1e-3,
        "epochs": 50,
        "batch_size": 16,
        "standardize": False,
        "patience": 0,
        "l2": 0.0,
    },
    # The same head as it is used in tutorials on fine-tuning VGG16.
    "vgg16-mlp": {
        "head": "mlp",
        "hidden": (256,),
        "dropout": 0.5,
        "optimizer": "rmsprop",
        "learning_rate": 2e-5,
        "epochs": 20,
        "batch_size": 20,
        "standardize": False,
        "patience": 0,
        "l2": 0.0,
    },
}

#: What holds where neither a flag nor the recipe says anything.
DEFAULTS: dict[str, Any] = {
    "head": "mlp",
    "hidden": (256,),
    "dropout": 0.5,
    "optimizer": "adam",
    "learning_rate": 3e-4,
    "epochs": 50,
    "batch_size": 64,
    "standardize": True,
    "patience": 8,
    "l2": 0.0,
}
