"""Masked losses of one task, and the meta-gradients that follow from them.

A loss is (outputs [N, 1], y [N], mask [N]) -> scalar; only `cross_entropy`
takes more than one output.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MetaLearner, Metrics, Params, Rows, Task

Objective = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def balanced_bce(
  outputs: jax.Array, y: jax.Array, mask: jax.Array
) -> jax.Array:
  """Binary cross-entropy in which each class present weighs the same.

  A support of normals only is an ordinary case: then the normals weigh all.

  Args:
    outputs: [N, 1] logits of "anomaly".
    y: [N] 1 = anomaly, 0 = normal.
    mask: [N] 1 = a real row.

  Returns:
    The mean over the classes present of the class's mean loss; 0 if no row is
    real.
  """
  losses = optax.sigmoid_binary_cross_entropy(outputs[:, 0], y)
  weights = jnp.stack([mask * (1 - y), mask * y])
  counts = weights.sum(1)
  means = weights @ losses / jnp.maximum(counts, 1)
  present = (counts > 0).astype(losses.dtype)
  return means @ present / jnp.maximum(present.sum(), 1)


def bce(outputs: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean binary cross-entropy over the real rows: logits [N, 1], y [N]."""
  losses = mask * optax.sigmoid_binary_cross_entropy(outputs[:, 0], y)
  return losses.sum() / jnp.maximum(mask.sum(), 1)


def cross_entropy(
  outputs: jax.Array, y: jax.Array, mask: jax.Array
) -> jax.Array:
  """Mean cross-entropy over the real rows.

  Args:
    outputs: [N, classes] logits.
    y: [N] the class, a whole number from 0; of any dtype.
    mask: [N] 1 = a real row.

  Returns:
    The mean; 0 if no row is real.
  """
  hot = jax.nn.one_hot(y.astype(jnp.int32), outputs.shape[1])
  losses = optax.softmax_cross_entropy(outputs, hot.astype(outputs.dtype))
  return (mask * losses).sum() / jnp.maximum(mask.sum(), 1)


def squared_error(
  outputs: jax.Array, y: jax.Array, mask: jax.Array
) -> jax.Array:
  """Mean squared error over the real rows: outputs [N, 1] against y [N]."""
  errors = mask * (outputs[:, 0] - y) ** 2
  return errors.sum() / jnp.maximum(mask.sum(), 1)


def ranking(outputs: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
  """Pairwise logistic loss, a smooth 1 - AUROC (Burges et al., RankNet, 2005).

  Args:
    outputs: [N, 1] logits of "anomaly".
    y: [N] 1 = anomaly, 0 = normal.
    mask: [N] 1 = a real row.

  Returns:
    Mean over pairs of an anomaly and a normal; 0 if there is no pair.
  """
  pairs = (mask * y)[:, None] * (mask * (1 - y))
  losses = jax.nn.softplus(outputs[:, 0] - outputs)
  return (pairs * losses).sum() / jnp.maximum(pairs.sum(), 1)


def mean(rows: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean [D] of rows [N, D] with weights [N], 0 or 1; 0 if all are 0."""
  return weights @ rows / jnp.maximum(weights.sum(), 1)


def members(y: jax.Array, mask: jax.Array, outputs: int) -> jax.Array:
  """[N, C] 1 = a real row of that class; classes 0 and 1 for one output."""
  hot = jax.nn.one_hot(y.astype(jnp.int32), max(outputs, 2))
  return mask[:, None] * hot.astype(mask.dtype)


def anomaly_logit(
  logits: jax.Array, present: jax.Array, open_class: jax.Array
) -> jax.Array:
  """The logit of "anomaly": of the anomalies' class, or of no known class.

  A softmax over normals alone says nothing, so that an open class stands
  against them; labelled anomalies, where there are any, join it.

  Args:
    logits: [N, 2] of normals and of labelled anomalies.
    present: [2] above 0 = the support has such rows.
    open_class: the logit of the open class, a scalar.

  Returns:
    [N].
  """
  both = jnp.logaddexp(open_class, logits[:, 1])
  return jnp.where(present[1] > 0, both, open_class) - logits[:, 0]


def gradient_of(
  task_loss: Callable[[jax.Array, Params, Task], jax.Array],
) -> Callable[[jax.Array, Params, Task], tuple[Params, Metrics]]:
  """The `meta_grad` of a learner: gradient of (key, params, task) -> loss."""

  def meta_grad(key, meta_params, task):
    loss = lambda meta_params: task_loss(key, meta_params, task)
    value, grads = jax.value_and_grad(loss)(meta_params)
    return grads, {'loss': value}

  return meta_grad


def from_query_loss(
  init: Callable[[jax.Array, Task], Params],
  adapt: Callable[[jax.Array, Params, Rows, jax.Array], Any],
  score: Callable[[Any, jax.Array], jax.Array],
  loss: Objective,
) -> MetaLearner:
  """A learner whose meta-gradient is that of the query's loss.

  Args:
    init: see `MetaLearner`, like the next two.
    adapt: differentiated through.
    score: of the query's rows.
    loss: of these scores.

  Returns:
    The learner.
  """

  def query_loss(key, meta_params, task):
    adapted = adapt(key, meta_params, task.support, task.features)
    scores = score(adapted, task.query.x)
    outputs = scores[:, None] if scores.ndim == 1 else scores
    return loss(outputs, task.query.y, task.query.mask)

  return MetaLearner(init, adapt, score, gradient_of(query_loss))
