"""Set-up of the library that computes: devices, precision, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bottleneck.errors import BackboneError

#: (N, height, width, 3) uint8 RGB.
Images = npt.NDArray[np.uint8]
#: (N, *shape) float32.
Features = npt.NDArray[np.float32]


def configure_backend(threads: int) -> None:
    """Sets TensorFlow up before its first operation; other backends need nothing.

    Args:
        threads: Threads that an operation may use; 0 leaves it to TensorFlow.

    Raises:
        BackboneError: TensorFlow already runs in this process with another number of threads.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            # Already in use by this process, which has decided how it takes memory.
            continue
    if threads in (0, tf.config.threading.get_intra_op_parallelism_threads()):
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as e:
        raise BackboneError(
            f"threads={threads} comes too late: TensorFlow already runs in this process with "
            f"{tf.config.threading.get_intra_op_parallelism_threads() or 'all'} threads; make the "
            "backbone before any other TensorFlow work, or leave threads at 0"
        ) from e


def require_exact_float32(precision: str) -> None:
    """Disables TF32, which would compute float32 with reduced precision on recent NVIDIA GPUs."""
    import keras

    if precision == "float32" and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)


def compiled(
    model: Any, shape: tuple[int, ...], dtype: str = "uint8"
) -> Callable[[npt.NDArray[Any]], Features]:
    """Returns a model as a function of one batch shape.

    TensorFlow does without XLA, which made VGG16 slower on a CPU (4.7 against 5 images/s).

    Args:
        model: ``keras.Model`` of one input and one output.
        shape: Shape of every batch, the number of images first.
        dtype: Type of the input's values.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return lambda images: np.asarray(model.predict_on_batch(images), np.float32)
    import tensorflow as tf

    function = tf.function(
        lambda images: model(images, training=False), jit_compile=False, autograph=False
    ).get_concrete_function(tf.TensorSpec(shape, tf.as_dtype(dtype)))
    return lambda images: function(tf.convert_to_tensor(images)).numpy()
