"""Functions traced once: only for what they were traced for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax.training import programs


def test_a_traced_function_is_not_run_on_other_shapes():
  mean = programs.traced(lambda x: x.sum(0) / x.shape[0], np.zeros((4, 2)))
  np.testing.assert_allclose(mean(np.ones((4, 2))), 1)
  with pytest.raises(TypeError, match=r'\(4, 2\).*not.*\(3, 2\)'):
    mean(np.ones((3, 2)))
  with pytest.raises(TypeError, match='traced for'):
    jax.jit(jax.vmap(mean))(jnp.ones((5, 3, 2)))
