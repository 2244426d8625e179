"""Tables of any width, and MAML: an initialisation that labels fine-tune.

Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", 2017, arXiv 1703.03400, exact, on the network and with the support
loss of `tables`.
"""

import functools

from metaad_jax.learners import tables

tables_maml = functools.partial(tables.tables, steps=2)
