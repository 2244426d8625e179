"""Which row should be looked at next: environments, policies.

Where gymnasium is installed, importing this registers `metaad/AnomalyHunt-v0`
and `metaad/FaultWatch-v0` for `gymnasium.make` and `gymnasium.make_vec`.
"""

import importlib.util

if importlib.util.find_spec('gymnasium'):
  import gymnasium

  for _name, _make in (
    ('AnomalyHunt', 'anomaly_hunt'),
    ('FaultWatch', 'watch'),
  ):
    _entry = f'metaad_jax.active.environments:{_make}'
    gymnasium.register(
      f'metaad/{_name}-v0', _entry, vector_entry_point=_entry
    )  # fmt: skip
