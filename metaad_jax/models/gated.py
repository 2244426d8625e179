"""Networks on verified rows alone, on all, and on those not suspected, blended.

Rows that nobody checked help while few of them are bad and do harm when many
are, and how many are can hardly be told from them. So a `kinds` network reads a
support three times, without the unverified rows, with all of them and without
the most suspected ones, and a small network blends what it says of a row. The
blend starts as the mean; to it comes a quarter of the log distances to the
verified rows (nearest and Mahalanobis), which no unverified row moves.
Only the blend is trained (`training/gates.py`), the network is a finished one.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models import kinds, suspicion

_KEPT = 0.4  # of the unverified rows, in the third reading
_PLAIN = 0.25  # weight of the log distances to verified rows
_ABOUT = 8  # what is said of a support as a whole
_NEAREST, _MAHALANOBIS = (
  suspicion.FEATURES.index(f'{name}_unusual')
  for name in ('nearest_verified', 'mahalanobis_verified')
)


class Summary(NamedTuple):
  """A support, read three times, and what it looks like as a whole."""

  readings: kinds.Summary  # [3, ...] verified rows, all, those not suspected
  about: jax.Array  # [8]
  doubts: jax.Array  # [S, 2] log-odds by the rounds of all, by verified rows
  suspects: jax.Array  # [1, S] log-odds that the support's rows are bad


class Gate(nn.Module):
  """Three logits [R, 3] and the support's looks [8] -> one [R]."""

  def setup(self):
    self.share = self.param('share', lambda _: jnp.full(3, 1 / 3))
    self.trust = self.param('trust', lambda _: jnp.array([-1.0, 0.5, 0.5]))
    self.hidden = [nn.Dense(16), nn.Dense(16)]
    self.last = nn.Dense(1, kernel_init=nn.initializers.zeros)

  def __call__(self, logits, about):
    about = jnp.broadcast_to(about, (len(logits), _ABOUT))
    x = jnp.concatenate([0.5 * logits, about], -1)
    for layer in self.hidden:
      x = jnp.tanh(layer(x))
    return logits @ self.share + self.last(x)[:, 0]

  def suspect(self, doubts):
    """[S] log-odds from those of `Summary.doubts`."""
    return self.trust[0] + doubts @ self.trust[1:]


def gated(
  *,
  width: int = 32,
  blocks: int = 2,
  heads: int = 4,
  rounds: int = 3,
  rows: int = 40,
):
  """See the module; the options are those of `kinds`."""
  make = kinds.kinds(
    width=width, blocks=blocks, heads=heads, rounds=rounds, rows=rows
  )
  return lambda outputs: _as_model(make(outputs))


def _as_model(network: base.Model) -> base.Model:
  def init(key, task):
    made = Gate().init(key, jnp.zeros((1, 3)), jnp.zeros(_ABOUT))
    return {**network.init(key, task), 'gate': made['params']}

  def summarise(params, reading):
    return read(network, params, *reading)

  def apply(params, context, x):
    logits, plain = describe(network, params, context.readings, x)
    return (gate(params['gate'], logits, context.about) + plain)[:, None]

  def suspects(context):
    return context.suspects

  support = lambda params, reading: network.support(_fixed(params), reading)
  return base.Model(
    init, network.read, summarise, support, apply, any_width=True,
    suspects=suspects, unverified=True,
  )  # fmt: skip


def gate(params: base.Params, *inputs: jax.Array, **method: Any) -> Any:
  """What `Gate` makes of its inputs, with its own parameters."""
  return Gate().apply({'params': params}, *inputs, **method)


def _fixed(params):
  """The network's own, which a gradient does not move."""
  return jax.lax.stop_gradient({'params': params['params']})


def read(
  network: base.Model, params: base.Params, support: base.Rows, real: jax.Array
) -> Summary:
  """Reads a support [S, F] with a `kinds` network and its gate."""
  of, known = suspicion.kinds(support), _fixed(params)
  some, open_rows = of.verified.sum() > 0, of.unverified
  zeros = jnp.zeros(len(support.y))

  def step(before, mask):
    """The verified rows first, then all, then those not suspected."""
    outside, odds, turn = before
    doubt = _doubt(some, outside, odds)
    kept = doubt < _quantiles(doubt, open_rows, (_KEPT,))[0]
    mask = mask * jnp.where(turn == 2, 1 - open_rows * ~kept, 1)
    made = network.summarise(known, (support._replace(mask=mask), real))
    logits = network.apply(known, made, support.x)[:, 0]
    outside = jnp.where(turn == 0, logits, outside)
    odds = jnp.where(turn == 1, made.suspects[-1], odds)
    return (outside, odds, turn + 1), made

  masks = jnp.stack([support.mask - open_rows, *[support.mask] * 2])
  ended, readings = jax.lax.scan(step, (zeros, zeros, 0), masks)
  outside, odds, _ = ended
  doubt = _doubt(some, outside, odds)
  number = jnp.maximum(open_rows.sum(), 1)
  mean = lambda logits: open_rows @ nn.sigmoid(logits) / number
  counts = readings.rounds[-1].counts[1]
  about = jnp.stack([
    *(0.5 * counts[:2] - 1), counts[3] - 2, 1.0 - some,
    4 * mean(doubt) - 1, 4 * mean(odds) - 1,
    *(0.5 * _quantiles(doubt, open_rows, (0.75, 0.9))),
  ])  # fmt: skip
  doubts = jnp.stack([odds, jnp.where(some, outside, odds)], 1)
  told = gate(params['gate'], doubts, method='suspect')
  return Summary(readings, about, doubts, told[None])


def describe(
  network: base.Model, params: base.Params, readings: kinds.Summary, x: Any
) -> tuple[jax.Array, jax.Array]:
  """Of new rows [R, F]: the three logits [R, 3], and what is added [R]."""
  apply = jax.vmap(network.apply, (None, 0, None))
  parts = apply(_fixed(params), readings, x)[..., 0]
  first = jax.tree.map(lambda leaf: leaf[0], readings.rounds[-1])
  some = first.kinds.verified.sum() > 0
  alone = jnp.where(some, parts[0], 0.5 * (parts[1] + parts[2]))
  logits = jnp.stack([alone, *parts[1:]], 1)
  plain = suspicion.describe(first, x)[:, (_NEAREST, _MAHALANOBIS)].sum(1)
  return logits, _PLAIN * some * plain


def _doubt(some, outside, odds):
  """[S] suspicion, by the verified rows and by the rounds of all."""
  return jnp.where(some, 0.5 * (outside + odds), odds)


def _quantiles(values, there, shares):
  """[n] of [S] values with weights 0 or 1; 0 if none has one."""
  ordered = jnp.sort(jnp.where(there > 0, values, jnp.inf))
  count = there.sum()
  places = [jnp.floor(share * count).astype(int) for share in shares]
  return jnp.where(count > 0, ordered[jnp.stack(places)], 0)
