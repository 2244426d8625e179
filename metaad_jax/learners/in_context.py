"""In-context learning: a support is read once, rows are scored in its light.

Meta-training learns how anomalies look in hundreds of tables, and adaptation is
one pass of the model over the support (Garnelo et al., "Conditional Neural
Processes", 2018; Hollmann et al., "TabPFN", 2022). It needs a model that reads
its support, such as `tables`. With `steps` it is MAML.
"""

import jax
import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import fine_tuning, maml, objectives

_SGD = optax.sgd(0.01)


def in_context(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  ranking: float = 0.5,
  suspicion: float = 0.5,
  steps: int = 0,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
  mode: str = 'auto',
) -> MetaLearner:
  """See `maml`; `suspicion` = weight of the loss on the support's own rows.

  That is the cross-entropy of what the model suspects of the unverified rows,
  where it suspects any (`Model.suspects`) and a task tells who is bad.
  """
  learner = maml.maml(
    model, loss=loss, ranking=ranking, steps=steps, adapt_steps=adapt_steps,
    inner_optimizer=inner_optimizer, mode=mode,
  )  # fmt: skip
  network = model(1)
  suspects = network.suspects
  if steps or suspects is None:
    return learner

  def task_loss(key, params, task):
    adapted = learner.adapt(key, params, task.support, task.features)
    rows = fine_tuning.scored(network, adapted, task.query)
    total = loss(*rows) + ranking * objectives.ranking(*rows)
    if task.hidden is None:
      return total
    open_rows = task.support.mask * (task.support.y == 0.5)
    of_round = lambda odds: objectives.bce(
      odds[:, None], task.hidden, open_rows
    )
    return (
      total + suspicion * jax.vmap(of_round)(suspects(adapted.context)).mean()
    )

  return learner._replace(meta_grad=objectives.gradient_of(task_loss))
