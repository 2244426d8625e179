"""The nouns of the library: every other module speaks in these.

A batch of tasks is a `Task` whose leaves all carry a leading axis T; the code
below never sees it, `jax.vmap` adds it.
"""

from collections.abc import Callable, Iterable
import dataclasses
import signal
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Params = Any  # a pytree of arrays
Metrics = dict[str, jax.Array]


class DataError(ValueError):
  """Bad data, in one line: what is wrong, where, and how to mend it."""


class Terminated(Exception):
  """A signal came, and what had to be saved is; in one line."""

  def __init__(self, message: str, number: int = signal.SIGTERM):
    super().__init__(message)
    self.number = number


class Rows(NamedTuple):
  """Samples of one task. Padding rows have mask 0 and must be inert.

  Attributes:
    x: [N, F] features, or [N, L, C] raw windows; float32.
    y: [N] float32; 1 = anomaly, 0 = normal; in a support 0.5 = nobody has
      checked it.
    mask: [N] float32; 1 = a real row.
  """

  x: jax.Array
  y: jax.Array
  mask: jax.Array


class Task(NamedTuple):
  """One episode.

  Attributes:
    support: the few rows to adapt on.
    query: the rows to score.
    features: [F] (or [C] for windows) float32; 1 = a real column, 0 = padding.
    hidden: [N] float32, for losses alone: 1 = an anomaly among the unverified
      rows of the support.
  """

  support: Rows
  query: Rows
  features: jax.Array
  hidden: jax.Array | None = None

  def rows(self) -> Rows:
    """All rows of the task, those of the support first."""
    pairs = zip(self.support, self.query, strict=True)
    return Rows(*(jnp.concatenate(pair) for pair in pairs))


class MetaLearner(NamedTuple):
  """An algorithm: pure functions closed over their hyper-parameters.

  Attributes:
    init: (key, task) -> meta_params; only the shapes of `task` count.
    adapt: (key, meta_params, support, features) -> adapted, for one task.
    score: (adapted, x [N, ...]) -> [N], higher = more anomalous; of a learner
      of several classes [N, classes], their logits.
    meta_grad: (key, meta_params, task) -> (grads, metrics), for one task;
      metrics is a dict of scalars that holds at least `loss`.
    at: (progress) -> the learner as it is when that share of meta-training is
      done, a scalar from 0 to 1; None = it stays what it is.
  """

  init: Callable[[jax.Array, Task], Params]
  adapt: Callable[[jax.Array, Params, Rows, jax.Array], Any]
  score: Callable[[Any, jax.Array], jax.Array]
  meta_grad: Callable[[jax.Array, Params, Task], tuple[Params, Metrics]]
  at: Callable[[jax.Array], 'MetaLearner'] | None = None


class Model(NamedTuple):
  """A network, and what an algorithm may ask of it.

  A support is read in two steps, since descent on it repeats only the second.

  Attributes:
    init: (key, task) -> params; only the shapes of `task` count.
    read: (support, features) -> reading: what is said of a support without
      parameters.
    summarise: (params, reading) -> context: all that scoring a row needs of
      the support.
    support: (params, reading) -> the support's `Rows` with x [R, outputs], the
      outputs of each in the light of the others.
    apply: (params, context, x [N, ...]) -> [N, outputs].
    any_width: rows may have any number of columns. They come as they were
      read, unscaled, with NaN where a value is missing.
    together: a row's outputs depend on the rows beside it, padding included, as
      where a batch is normalised: for episodes without padding.
    suspects: context -> [rounds, K] log-odds that each row of the support is an
      anomaly, the last being the best; None = cannot tell.
    unverified: a support may have rows of y = .5, which nobody checked; other
      models are given these as normals.
  """

  init: Callable[[jax.Array, Task], Params]
  read: Callable[[Rows, jax.Array], Any]
  summarise: Callable[[Params, Any], Any]
  support: Callable[[Params, Any], Rows]
  apply: Callable[[Params, Any, jax.Array], jax.Array]
  any_width: bool = False
  together: bool = False
  suspects: Callable[[Any], jax.Array] | None = None
  unverified: bool = False


# (outputs) -> the model with so many.
MakeModel = Callable[[int], Model]


def one_width(learner: str, model: Model) -> Model:
  """The model, if its rows have one width; a DataError if they need not."""
  if model.any_width:
    raise DataError(
      f'learner {learner!r} compares columns, which have no fixed place in '
      'rows of any width: choose another --model, such as mlp'
    )
  return model


@dataclasses.dataclass(frozen=True)
class Entity:
  """All rows of one machine, patient, shop or host.

  Attributes:
    name: unique within its source.
    normal: [N, L, C] windows or [N, F] rows, float32, normal, in the order of
      time: supports are drawn from here.
    query: [M, ...] rows that are to be scored; later in time than `normal`
      where time is known, and never the same rows.
    labels: [M] int32; 1 = anomaly. Labelled support anomalies are drawn from
      the anomalies here, and left out of that task's query.
    kinds: M strings, the kind of each anomaly; '' for a normal row.
    group: entities of one group are never on two sides of a split ('' = the
      entity is a group of its own). Near-duplicates and parts of one recording
      share a group.
    fold: '' or the name that leave-one-out cross-validation goes by, such as a
      fault location.
    side: '' = may serve anywhere; 'train' or 'test' = may serve there only
      (the validation side counts as 'train').
    columns: names of this entity's columns, where entities of the source
      differ in theirs (see `Source.tables`).
  """

  name: str
  normal: np.ndarray
  query: np.ndarray
  labels: np.ndarray
  kinds: tuple[str, ...] = ()
  group: str = ''
  fold: str = ''
  side: str = ''
  columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """A public file of a source.

  Attributes:
    path: where it lies below `<data_dir>/<source>/`; a loader also accepts the
      same path with `.xz` appended.
    url: where it is fetched from.
    sha256: hexadecimal digest of the file as published; `KEY:digest` = of the
      values of one array of an .npz archive, where only those are known.
  """

  path: str
  url: str
  sha256: str


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set or a simulator.

  Attributes:
    name: as in the registry and on the command line.
    description: one line: what the entities are and what a row is.
    load: (data_dir, **options) -> entities; the options are the loader's
      keyword-only arguments, with their defaults. Raises DataError.
    features: names of the default features (see `metaad_jax.features`).
    units: the physical units of the columns.
    licence: the licence of the data, as far as it is known.
    citation: the paper or page to cite.
    channels: names of the columns, where all entities share them.
    rate: sampling rate in Hz of the windows; None for rows.
    files: what `experiments.download` fetches.
    note: what a user must do by hand (a login, a conversion); '' = nothing.
    generate: None, or for simulators (key, normals, anomalies, **options) ->
      (normal [normals, L, C], anomaly [anomalies, L, C]) of one new machine,
      jittable, with static counts.
    tables: every entity is a table of its own: rows [N, F] of any width, in
      which NaN is a missing value and a category is a whole number. Only
      learners that do not depend on the width can be trained on it.
    images: rows are square images, [H, W], whose columns are of one kind.
    code: modules that with the options alone say what `load` returns: programs
      keep it on disk (see `data.simulated`); () = not kept.
  """

  name: str
  description: str
  load: Callable[..., Iterable[Entity]]
  features: tuple[str, ...]
  units: str
  licence: str
  citation: str
  channels: tuple[str, ...] = ()
  rate: float | None = None
  files: tuple[RemoteFile, ...] = ()
  note: str = ''
  generate: Callable[..., tuple[jax.Array, jax.Array]] | None = None
  tables: bool = False
  images: bool = False
  code: tuple[str, ...] = ()
