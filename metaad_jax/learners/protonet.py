"""Prototypical Networks, with an open class for what resembles nothing known.

Snell, Swersky & Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS
2017, arXiv 1703.05175. A class is the mean of its support rows' embeddings, and
a row belongs to the class whose prototype is near in squared distance.

Supports of normals only: there is one prototype, and a softmax over one class
says nothing. An anomaly is then a row *far* from the normal prototype, farther
than a radius that is meta-learned: an open class whose squared distance to
every row is that constant. With labelled anomalies their prototype competes
too, and a row is abnormal if it is nearer to that prototype, or beyond the
radius: anomalies of a kind never labelled are still found.
"""

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import objectives, prototypes


def protonet(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  embedding: int = 32,
) -> MetaLearner:
  """Prototypical Networks.

  Args:
    model: (outputs) -> model; `embedding` outputs are asked for.
    loss: of the query.
    outputs: 1, the logit of "anomaly", or one for each class.
    embedding: dimension of the embedding, D.

  Returns:
    The learner.
  """
  network = model(embedding)

  def adapt(key, meta_params, support, features):
    del key
    return prototypes.read(network, meta_params, support, features, outputs)[0]

  score = prototypes.scorer(network, outputs)
  return objectives.from_query_loss(
    prototypes.starting(network), adapt, score, loss
  )
