"""Bottleneck features of image collections, as a batch job on Ray.

Importing this package loads neither Ray nor Keras: the modules that need them import them.

pandas imports an optional accelerator that is also called ``bottleneck`` and would take this
package for it. It checks ``__version__``: without one ``import pandas`` fails, from 1.5.0 on it
would call functions that do not exist here, below that it warns and goes on without. So the
version stays below 1.5, and the warning, which would greet users in every process, is silenced
here: pandas imports this package before it warns.
"""

import warnings

__version__ = "0.1.0"

warnings.filterwarnings(
    "ignore",
    message=r"Pandas requires version '[^']*' or newer of 'bottleneck'",
    category=UserWarning,
)
