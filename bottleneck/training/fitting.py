"""One training worker's arithmetic: epochs of a head over windows of rows.

Why not ``Model.fit``: under several TensorFlow workers it fails with Keras 3 (keras #20585), and
it divides data so that losses depend on the number of workers. Here a step computes the gradient
of the rows that this worker holds, divided by the size of the whole batch; gradients are added up
over the workers, and every worker makes the same update. A dropout mask belongs to the place in
the whole batch, so that it is the same whoever holds the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bottleneck.models.heads import build_head, dense_part, set_standardization
from bottleneck.training.checkpoint import Checkpoint
from bottleneck.training.fit_config import FitConfig
from bottleneck.training.windows import WindowReader, moments

#: Rows whose logits are computed at a time when a split is evaluated.
_EVALUATED_ROWS = 1024


class HeadFitter:
    """Fits one head; every worker has one and all do the same steps.

    Args:
        config: What to fit and how.
        length: Values per row as held.
        rank: Rank of this worker.
        world: Number of workers. With more than one, ``TF_CONFIG`` must describe them and no
            TensorFlow operation may have run yet.
        timeout_s: Seconds that workers wait for one another at a step.
    """

    def __init__(
        self,
        config: FitConfig,
        length: int,
        *,
        rank: int = 0,
        world: int = 1,
        timeout_s: float = 3600.0,
    ) -> None:
        import tensorflow as tf

        self.config = config
        self._tf, self._rank, self._world = tf, rank, world
        self._strategy: Any = None
        if world > 1:
            options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout_s)
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy(
                communication_options=options
            )
        self.head = build_head(config.head)
        self._layers = dense_part(self.head)
        self._variables = self.head.trainable_variables
        self._optimizer = _optimizer(config)
        self._optimizer.build(self._variables)
        self._length = length
        self._weights = np.asarray(config.class_weights, np.float32)
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self._best: list[npt.NDArray[Any]] = []
        self._compile()

    def _compile(self) -> None:
        tf = self._tf
        dtype = tf.as_dtype(self.config.dtype)
        rows = tf.TensorSpec([None, self._length], dtype)
        classes = tf.TensorSpec([None], tf.int32)
        scalar = tf.TensorSpec([], tf.int32)

        def everywhere(function: Any) -> Any:
            """Has a function run on every worker, which may then sum tensors up."""
            if self._strategy is None:
                return function
            return lambda *arguments: self._strategy.run(function, args=arguments)

        self._gradients = tf.function(
            everywhere(self._replica_gradients),
            input_signature=[rows, classes, tf.TensorSpec([None], tf.float32), classes,
                             scalar, tf.TensorSpec([2], tf.int32)],
        )  # fmt: skip
        self._sums = tf.function(self._loss_and_hits, input_signature=[rows, classes])
        # The update of a large kernel is bound by memory: XLA does it in one pass instead of one
        # for each term of the optimizer, which halves the time of a step at batches of 32.
        self._update = tf.function(
            lambda gradients: self._optimizer.apply(gradients, self._variables), jit_compile=True
        )
        self._sum = tf.function(everywhere(lambda *tensors: self._added_up(list(tensors))))

    def _added_up(self, tensors: list[Any]) -> list[Any]:
        if self._strategy is None:
            return tensors
        context = self._tf.distribute.get_replica_context()
        # A function's argument has no device, which adding up over workers goes by.
        placed = [self._tf.identity(tensor) for tensor in tensors]
        return list(context.all_reduce(self._tf.distribute.ReduceOp.SUM, placed))

    def _logits(self, values: Any, masks: Callable[[Any], Any] | None) -> Any:
        x = self._tf.cast(values, self._tf.float32)
        for layer in self._layers:
            if not layer.name.startswith("dropout"):
                x = layer(x)
            elif masks is not None:
                x = x * masks(layer)
        return x

    def _losses(self, classes: Any, logits: Any) -> Any:
        nn = self._tf.nn
        if self.config.head.binary:
            truth = self._tf.cast(classes, self._tf.float32)
            return nn.sigmoid_cross_entropy_with_logits(truth, logits[:, 0])
        return nn.sparse_softmax_cross_entropy_with_logits(classes, logits)

    def _hits(self, classes: Any, logits: Any) -> Any:
        tf = self._tf
        if self.config.head.binary:
            chosen = tf.cast(logits[:, 0] > 0, tf.int32)
        else:
            chosen = tf.argmax(logits, axis=1, output_type=tf.int32)
        return tf.reduce_sum(tf.cast(chosen == classes, tf.float32))

    def _replica_gradients(
        self, values: Any, classes: Any, weights: Any, places: Any, count: Any, seed: Any
    ) -> list[Any]:
        """Returns (sum of losses, hits, *gradients), added up over all workers."""
        tf = self._tf

        def mask(layer: Any) -> Any:
            number = int(layer.name.rpartition("_")[2])
            units = self.config.head.hidden[number - 1]
            drawn = tf.random.stateless_uniform([count, units], seed + tf.constant([number, 0]))
            kept = tf.cast(drawn >= layer.rate, tf.float32) / (1 - layer.rate)
            return tf.gather(kept, places)

        with tf.GradientTape() as tape:
            logits = self._logits(values, mask)
            loss = tf.reduce_sum(self._losses(classes, logits) * weights)
            loss /= tf.cast(count, tf.float32)
            penalties = [penalty for layer in self._layers for penalty in layer.losses]
            if penalties:
                # Each worker adds its share of the penalty, so that their sum holds it once.
                loss += tf.add_n(penalties) / self._world
        gradients = tape.gradient(loss, [variable.value for variable in self._variables])
        hits = self._hits(classes, logits)
        return self._added_up([loss * tf.cast(count, tf.float32), hits, *gradients])

    def _loss_and_hits(self, values: Any, classes: Any) -> Any:
        logits = self._logits(values, None)
        return self._tf.stack(
            [self._tf.reduce_sum(self._losses(classes, logits)), self._hits(classes, logits)]
        )

    def add_up(self, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Sums arrays of equal shapes up over all workers."""
        tensors = self._sum(*[self._tf.convert_to_tensor(array) for array in arrays])
        return [tensor.numpy() for tensor in tensors]

    def standardize(self, train: WindowReader) -> None:
        """Stores the training rows' statistics in the head."""
        total, squares, count = moments(train.windows())
        zeros = np.zeros(self._length)
        total, squares = (zeros + total, zeros + squares)
        added = self.add_up([total, squares, np.asarray(float(count))])
        set_standardization(self.head, added[0], added[1], int(added[2]))

    def train_epoch(self, train: WindowReader, epoch: int) -> dict[str, float]:
        """Uses every training row once.

        Args:
            train: The training rows.
            epoch: Number of the epoch, from 0; it decides order and dropout.

        Returns:
            ``loss`` (penalties included) and ``accuracy`` (0…1), means over the rows, each computed
            with the weights before its batch's update.
        """
        tf, config = self._tf, self.config
        loss, hits, done, step = 0.0, 0.0, 0, 0
        order_of = np.random.default_rng([config.seed, epoch])
        for window in train.windows(seed=[config.seed, epoch]):
            order = order_of.permutation(len(window.label))
            for rows, places, count in window.batches(order, config.batch_size, self._rank):
                classes = window.label[rows]
                added = self._gradients(
                    tf.convert_to_tensor(window.values[window.place[rows]]),
                    tf.convert_to_tensor(classes),
                    tf.convert_to_tensor(self._weights[classes]),
                    tf.convert_to_tensor(places.astype(np.int32)),
                    tf.constant(count, tf.int32),
                    tf.constant([(config.seed * 8191 + epoch * 64) % 2**31, step], tf.int32),
                )
                self._update(added[2:])
                loss += float(added[0])
                hits += float(added[1])
                done += count
                step += 1
        return {"loss": loss / done, "accuracy": hits / done}

    def evaluate(self, rows: WindowReader) -> dict[str, float]:
        """Returns ``loss`` (without penalties) and ``accuracy`` of a split, {} if it is empty."""
        tf = self._tf
        sums, count = np.zeros(2), 0
        for window in rows.windows():
            own = np.flatnonzero(window.owner == self._rank)
            classes = window.label[own][np.argsort(window.place[own], kind="stable")]
            for start in range(0, len(own), _EVALUATED_ROWS):
                part = slice(start, start + _EVALUATED_ROWS)
                sums += self._sums(
                    tf.convert_to_tensor(window.values[part]), tf.convert_to_tensor(classes[part])
                ).numpy()
            count += len(own)
        added = self.add_up([sums, np.asarray(float(count))])
        total = float(added[1])
        if not total:
            return {}
        return {"loss": float(added[0][0]) / total, "accuracy": float(added[0][1]) / total}

    def record(self, entry: dict[str, float]) -> None:
        """Adds an epoch to the history and keeps its weights if it is the best so far.

        Args:
            entry: Losses and accuracies of the epoch by name.
        """
        self.history.append(entry)
        if self.config.monitor not in entry or self.config.patience == 0:
            self.best_epoch = len(self.history)
            return
        sign = 1 if self.config.monitor == "val_loss" else -1
        scores = [sign * past[self.config.monitor] for past in self.history]
        if scores[-1] < min(scores[:-1], default=math.inf):
            self.best_epoch = len(self.history)
            self._best = self.head.get_weights()

    @property
    def finished(self) -> bool:
        """Whether the last epoch was done, or the last few were no better."""
        past, patience = len(self.history), self.config.patience
        return past >= self.config.epochs or bool(patience and past - self.best_epoch >= patience)

    def checkpoint(self) -> Checkpoint:
        """Returns all that an interrupted training needs to go on."""
        return Checkpoint(
            history=self.history,
            best_epoch=self.best_epoch,
            head=self.head.get_weights(),
            best=self._best,
            optimizer=[np.asarray(variable) for variable in self._optimizer.variables],
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to where :meth:`checkpoint` was called."""
        self.history, self.best_epoch = list(checkpoint.history), checkpoint.best_epoch
        self.head.set_weights(list(checkpoint.head))
        if self.config.head.standardize:
            self.head.get_layer("standardize").finalize_state()
        self._best = list(checkpoint.best)
        for variable, value in zip(self._optimizer.variables, checkpoint.optimizer, strict=True):
            variable.assign(value)


def _optimizer(config: FitConfig) -> Any:
    from keras import optimizers

    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        rate = optimizers.schedules.CosineDecay(rate, config.steps)
    elif config.schedule == "exponential":
        rate = optimizers.schedules.ExponentialDecay(rate, config.steps, 0.01)
    if config.optimizer == "sgd":
        return optimizers.SGD(rate, momentum=0.9)
    return optimizers.Adam(rate) if config.optimizer == "adam" else optimizers.RMSprop(rate)
