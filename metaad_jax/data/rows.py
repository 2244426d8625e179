"""Rows of an entity: which are the same, and which of many are taken."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import inspect
from typing import Any

import numpy as np

from metaad_jax.base import DataError, Entity


def _keys(x):
  return [row.tobytes() for row in np.ascontiguousarray(x + np.float32(0))]


def distinct(x: np.ndarray) -> np.ndarray:
  """Indices of the first of each set of equal rows, in order; NaN equals NaN.

  Args:
    x: [N, F] float32.
  """
  first: dict[bytes, int] = {}
  for i, key in enumerate(_keys(x)):
    first.setdefault(key, i)
  return np.fromiter(first.values(), int, len(first))


def unseen(x: np.ndarray, known: np.ndarray) -> np.ndarray:
  """[N] bool: which of rows [N, F] equal, bit for bit, none of [M, F]."""
  taken = set(_keys(known))
  return np.array([key not in taken for key in _keys(x)], bool)


def deal(x: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Deals a table out: half of the normals for supports, the rest to score.

  Equal rows are taken once, and a row that occurs both as normal and as an
  anomaly not at all, so that no row can be on both sides.

  Args:
    x: [N, F] float32.
    anomalous: [N] bool.

  Returns:
    Indices of the normals, and of the query, both in order.
  """
  doubtful = ~unseen(x, x[anomalous]) & ~unseen(x, x[~anomalous])
  kept = np.flatnonzero(~doubtful)
  kept = kept[distinct(x[kept])]
  normal = kept[~anomalous[kept]]
  pool = normal[: (len(normal) + 1) // 2]
  return pool, np.setdiff1d(kept, pool)


def thin(index: np.ndarray, limit: int) -> np.ndarray:
  """Keeps at most `limit` of them, evenly spaced, in order."""
  if len(index) <= limit:
    return index
  return index[np.linspace(0, len(index) - 1, limit).astype(int)]


def choose(anomalous: np.ndarray, limit: int) -> np.ndarray:
  """Thins a query evenly, its normals and its anomalies in proportion.

  Anomalies keep a tenth of the places while there are enough of them.

  Args:
    anomalous: [N] bool.
    limit: how many to keep at most.

  Returns:
    Indices, in order.
  """
  bad, good = np.flatnonzero(anomalous), np.flatnonzero(~anomalous)
  if len(anomalous) <= limit:
    return np.arange(len(anomalous))
  share = max(round(limit * len(bad) / len(anomalous)), limit // 10)
  kept = thin(bad, max(1, share))
  return np.sort(np.concatenate([kept, thin(good, limit - len(kept))]))


def entity(
  name: str, normal: np.ndarray, query: np.ndarray, kinds: Any, **fields
) -> Entity:
  """An entity of rows that are anomalous where they have a kind.

  Args:
    name: see `Entity`, as the other fields.
    normal: rows or windows.
    query: rows or windows [M, ...].
    kinds: [M] strings; '' = normal.
    **fields: others of the entity.
  """
  kinds = np.asarray(kinds)
  labels = (kinds != '').astype(np.int32)
  return Entity(name, normal, query, labels, tuple(kinds.tolist()), **fields)


def thinned(entity: Entity, max_rows: int, max_queries: int) -> Entity:
  """Leaves at most so many normals and rows to score, as float32."""
  if max_rows < 1 or max_queries < 2:
    raise DataError(
      f'max_rows={max_rows}, max_queries={max_queries}: choose max_rows >= 1 '
      'and max_queries >= 2'
    )
  pool = thin(np.arange(len(entity.normal)), max_rows)
  query = choose(entity.labels == 1, max_queries)
  return dataclasses.replace(
    entity,
    normal=np.ascontiguousarray(entity.normal[pool], np.float32),
    query=np.ascontiguousarray(entity.query[query], np.float32),
    labels=entity.labels[query],
    kinds=tuple(entity.kinds[i] for i in query),
  )


def limited(load: Callable[..., Iterable[Entity]]) -> Callable[..., list]:
  """A loader that thins the entities `load` yields, see `thinned`.

  It has two options more, `max_rows` and `max_queries`, 2000 by default.
  """

  def thinning(
    data_dir: str | None,
    *,
    max_rows: int = 2000,
    max_queries: int = 2000,
    **options,
  ) -> list[Entity]:
    entities = load(data_dir, **options)
    return [thinned(entity, max_rows, max_queries) for entity in entities]

  options = inspect.signature(load).parameters.values()
  declare(
    thinning, {p.name: p.default for p in options if p.kind is p.KEYWORD_ONLY}
  )
  return thinning


def declare(function: Callable, options: Mapping[str, Any]) -> None:
  """Makes what a function takes as **options part of its signature.

  `specs.check` looks there for the options and their defaults.
  """
  whole = inspect.signature(function)
  parameters = [
    *(p for p in whole.parameters.values() if p.kind is not p.VAR_KEYWORD),
    *(
      inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
      for name, default in options.items()
    ),
  ]
  function.__signature__ = whole.replace(parameters=parameters)  # type: ignore
