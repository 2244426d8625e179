"""Tables of any width: a support is read once, rows are scored in its light.

In-context: meta-training learns how anomalies look in hundreds of tables, and
adaptation is one pass of the encoder over the support (Garnelo et al.,
"Conditional Neural Processes", 2018; Hollmann et al., "TabPFN", 2022).
With `steps` it also descends on the support's rows, each in the light of the
others. NaN is a missing value; scaling is the learner's own.
"""

import jax
import optax

from metaad_jax.base import MetaLearner
from metaad_jax.learners import inner_loop, objectives
from metaad_jax.models import table_features

_SGD = optax.sgd(0.01)


def tables(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  ranking: float = 0.5,
  steps: int = 0,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
) -> MetaLearner:
  """A learner for rows of any width; the score is the logit of "anomaly".

  Args:
    model: (outputs) -> network, such as `models.tables`.
    loss: of the query, and of the support where there are steps.
    ranking: weight of a pairwise ranking loss that is added for the query.
    steps: inner steps on the support in meta-training.
    adapt_steps: inner steps of `adapt`; 0 = as in meta-training.
    inner_optimizer: any optax transformation.

  Returns:
    The learner.
  """
  network = model(1)

  def init(key, task):
    support = table_features.fit(task.support, task.features)
    return network.init(key, support, task.support.x)

  def fitted(params, support, features, number):
    read = table_features.fit(support, features)

    def support_loss(params):
      summary, told = network.apply(params, read, method='summarise')
      outputs = network.apply(params, summary, told, method='score')
      return loss(outputs, summary.anomaly, summary.normal + summary.anomaly)

    if number:
      params = inner_loop.descend(support_loss, params, inner_optimizer, number)
    return params, read, network.apply(params, read, method='summarise')[0]

  def adapt(key, meta_params, support, features):
    del key
    return fitted(meta_params, support, features, adapt_steps or steps)

  def score(adapted, x):
    params, read, summary = adapted
    told = table_features.describe(read, x)
    return network.apply(params, summary, told, method='score')[:, 0]

  def meta_grad(key, meta_params, task):
    del key

    def query_loss(meta_params):
      adapted = fitted(meta_params, task.support, task.features, steps)
      outputs = score(adapted, task.query.x)[:, None]
      rows = outputs, task.query.y, task.query.mask
      return loss(*rows) + ranking * objectives.ranking(*rows)

    value, grads = jax.value_and_grad(query_loss)(meta_params)
    return grads, {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)
