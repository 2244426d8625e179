"""What a detector lets an analyst look at next; see `metaad_jax.active`."""

import importlib.resources

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.ensemble import IsolationForest

from metaad_jax import specs, storage
from metaad_jax.active import hunt, policies
from metaad_jax.base import DataError
from metaad_jax.detector.fitted import Fitted


def table(
  known: Fitted, x: np.ndarray, labels=None, size: int | None = None
) -> hunt.Table:
  """Rows as a hunt sees them: scored by an isolation forest and the detector.

  Args:
    known: a fitted detector.
    x: [n, ...] float64 rows, as of `Fitted.score`.
    labels, size: of `hunt.prepare`.
  """
  features = known.features(x)
  forest = IsolationForest(random_state=0).fit(features)
  scores = [-forest.score_samples(features), known.score_features(features)]
  return hunt.prepare(features, np.column_stack(scores), labels, size)


def learned() -> dict:
  """The parameters of the policy that comes with the package."""
  shipped = importlib.resources.files('metaad_jax') / 'shipped' / 'hunter.npz'
  with importlib.resources.as_file(shipped) as path:
    return storage.load(str(path))[0]


def choose(known: Fitted, x: np.ndarray, n: int, policy: str) -> np.ndarray:
  """Positions of the rows to look at next; see `next_queries`."""
  named = {**policies.RULES, 'learned': None}
  rule = specs.look_up('policy', named, policy) or policies.learned(learned())
  labels, count = _labels(known, x), len(x)
  if not 1 <= n <= (labels < 0).sum():
    raise DataError(
      f'n={n}: X has {(labels < 0).sum()} rows that are not labelled yet'
    )
  told = np.flatnonzero(labels >= 0)
  others = known.x[(known.y == 1) & ~_among(known.x, x)]
  env = hunt.Params(hunt.stack([table(known, np.concatenate([x, others]))]))
  rows = np.concatenate([told, count + np.arange(len(others))])
  y = np.concatenate([labels[told], np.ones(len(others))])
  seen = _observe(env, rows.astype(np.int32), y.astype(np.float32))
  wanted = np.array(rule(jax.random.key(len(rows)), seen))[:count]
  wanted[told] = -np.inf
  return np.argsort(-wanted, kind='stable')[:n]


@jax.jit
def _observe(env, rows, y):
  first = jax.tree.map(lambda leaf: leaf[0], env.tables)
  learn = lambda state, one: (hunt.label(state, first, *one), None)
  state = hunt.start(jnp.int32(0), env.tables)
  state, _ = jax.lax.scan(learn, state, (rows, y))
  return hunt.observe(state, env)


def _keys(x):
  return [row.tobytes() for row in np.ascontiguousarray(x + 0.0)]


def _among(x, others):
  """[n] bool, which of the rows are among the others."""
  known = set(_keys(others))
  return np.array([key in known for key in _keys(x)], bool)


def _labels(known, x):
  """[n] what the detector was told of each row; -1 = nothing."""
  given = known.y >= 0
  told = dict(zip(_keys(known.x[given]), known.y[given], strict=True))
  return np.array([told.get(key, -1) for key in _keys(x)], int)
