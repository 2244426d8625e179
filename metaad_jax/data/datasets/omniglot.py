"""Omniglot: characters of 50 alphabets, each drawn by 20 people.

Here to validate the learners, as the papers do: an entity is a character, what
is normal are drawings of it, anomalies are drawings of other characters.
"""

from collections.abc import Iterator

import numpy as np

from metaad_jax import specs
from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows

SIZE = 28
_DRAWN = 105
_SUPPORTS = 10  # drawings for supports; the other ten are scored


def load(
  data_dir: str | None, *, limit: int = 0, anomalies: int = 10
) -> Iterator[Entity]:
  """One entity per character, with windows [N, 28, 28], 1 = ink, 0 = paper.

  Supports come from ten people's drawings, the query from those of the other
  ten: of this character, and of others from the same file, one each. Side
  'train' is the background file, 'test' the evaluation file. Kinds name the
  character.

  Args:
    data_dir: holds omniglot/.
    limit: characters of each file, the first so many; 0 = all.
    anomalies: drawings of other characters per entity.
  """
  root = public_files.folder(data_dir, 'omniglot')
  for side, part in (('train', 'background'), ('test', 'evaluation')):
    file = public_files.File(root, f'images_{part}.npz')
    drawn = file.arrays(('images',))['images']
    good = drawn.dtype == bool and drawn.shape[1:] == (20, _DRAWN, _DRAWN)
    why = f'{drawn.dtype} {drawn.shape}, expected bool [N, 20, 105, 105]'
    file.require(good, why)
    ink = _shrink(drawn[: limit or None])
    del drawn
    specs.allow(
      limit >= 0 and 1 <= anomalies < len(ink),
      'omniglot', f'limit >= 0 and 1 <= anomalies < {len(ink)}',
      limit=limit, anomalies=anomalies,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for i, drawings in enumerate(ink):
      others = rng.choice(len(ink) - 1, anomalies, replace=False)
      others += others >= i
      people = rng.integers(_SUPPORTS, len(drawings), anomalies)
      same = drawings[_SUPPORTS:]
      query = np.concatenate([same, ink[others, people]])
      kinds = [*[''] * len(same), *(f'{part} {j}' for j in others)]
      normal = drawings[:_SUPPORTS]
      yield rows.entity(f'{part} {i}', normal, query, kinds, side=side)


def _shrink(paper):
  """bool [N, 20, 105, 105], True = paper -> float32 [N, 20, 28, 28] of ink."""
  # Weight of each of 105 pixels in the mean over each of 28 cells.
  edges = np.linspace(0, _DRAWN, SIZE + 1)
  pixel = np.arange(_DRAWN)
  low = np.maximum(edges[:-1, None], pixel)
  high = np.minimum(edges[1:, None], pixel + 1)
  mean = (np.maximum(high - low, 0) * SIZE / _DRAWN).astype(np.float32)
  small = [1 - mean @ one.astype(np.float32) @ mean.T for one in paper]
  return np.stack(small).clip(0, 1) if small else np.zeros((0, 20, SIZE, SIZE))


SOURCE = public_files.source('omniglot', load, images=True)
