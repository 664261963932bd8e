"""vae-sweep: distributed hyperparameter sweeps of variational autoencoders.

Importing this package has no side effects and loads no heavy library.
"""

__version__ = "0.1.0"
