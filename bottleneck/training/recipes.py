"""Recipes: named sets of training settings, each complete."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Settings of a head and of its fitting that a recipe makes; flags of these names override.

    The defaults hold where neither a flag nor a recipe says anything.

    Attributes:
        head: ``mlp`` or ``linear``.
        hidden: Units of the hidden layers; none for a linear head.
        dropout: Share of hidden units dropped while training, 0…1.
        l2: Weight of the L2 penalty on kernels.
        standardize: Whether features are standardized first.
        optimizer: ``adam``, ``rmsprop`` or ``sgd``.
        learning_rate: Learning rate, at its highest.
        epochs: Maximum passes over the training rows.
        batch_size: Rows per step, over all workers.
        patience: Epochs without a better one after which training stops; 0 for never.
    """

    head: str = "mlp"
    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.5
    l2: float = 0.0
    standardize: bool = True
    optimizer: str = "adam"
    learning_rate: float = 3e-4
    epochs: int = 50
    batch_size: int = 64
    patience: int = 8


RECIPES: dict[str, HeadSettings] = {
    "none": HeadSettings(),
    # F. Chollet, "Building powerful image classification models using very little data"
    # (The Keras Blog, 2016): bottleneck features, Dense 256, Dropout 0.5, RMSprop.
    "keras-blog": HeadSettings(
        hidden=(256,),
        dropout=0.5,
        standardize=False,
        optimizer="rmsprop",
        learning_rate=1e-3,
        epochs=50,
        batch_size=16,
        patience=0,
    ),
    # The same head as it is used in tutorials on fine-tuning VGG16.
    "vgg16-mlp": HeadSettings(
        hidden=(256,),
        dropout=0.5,
        standardize=False,
        optimizer="rmsprop",
        learning_rate=2e-5,
        epochs=20,
        batch_size=20,
        patience=0,
    ),
}
