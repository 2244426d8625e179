"""Differentiable descent: the inner loop of every gradient-based learner."""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metaad_jax import base, devices, memory

MODES = ('auto', 'reverse', 'remat', 'mixed', 'first_order')

# Steps from which on recomputing keeps the parameters of every root of them
# only: what is kept grows with the root, and a step costs a quarter more.
_MANY = 64


def optimizer(
  name: str, rate: Any, **options: float
) -> optax.GradientTransformation:
  """Any optax optimizer by its name, safe to differentiate through.

  Adam and its kin take the root of a second moment that is exactly zero where
  a unit is dead; the root's derivative there is infinite. Where an optimizer
  has `eps_root` it is therefore set above zero.

  Args:
    name: such as 'sgd', 'adam', 'rmsprop'.
    rate: learning rate, or a schedule of it.
    **options: others of that optimizer, such as weight_decay.

  Returns:
    The transformation.

  Raises:
    DataError: if optax has no such optimizer, or none that needs gradients
      alone, or the rate or an option is below zero or not finite.
  """
  if not callable(rate) and not 0 <= rate < math.inf:
    raise base.DataError(
      f'optimizer {name!r}: rate={rate!r} must be finite and at least 0'
    )
  for key, value in options.items():
    if not 0 <= value < math.inf:
      raise base.DataError(
        f'optimizer {name!r}: {key}={value!r} must be finite and at least 0'
      )
  make = getattr(optax, name, None)
  if not callable(make) or name.startswith('_'):
    raise base.DataError(
      f'unknown optimizer {name!r}: use the name of one in optax, such as sgd'
    )
  try:
    made = make(rate, eps_root=1e-8, **options)
  except TypeError:
    made = None
  try:
    made = made or make(rate, **options)
    jax.eval_shape(lambda p: made.update(p, made.init(p), p), jnp.ones(2))
  except (TypeError, AttributeError, ValueError) as error:
    told = ''.join(f' and {key}' for key in options)
    raise base.DataError(
      f'{name!r} is no optax optimizer of one learning rate{told}: try sgd or '
      'adam'
    ) from error
  return made


def _mixed_gradient(
  loss: Callable[[Any], jax.Array], example: Any
) -> Callable[[Any], Any]:
  """The gradient of `loss` with a forward-over-reverse derivative of its own.

  Its VJP is one JVP over the gradient with respect to the parameters *and* to
  everything differentiable that the loss closes over, so that the mixed second
  derivatives are kept.
  """
  total, constants = jax.closure_convert(loss, example)

  @jax.custom_vjp
  def gradient(params, *constants):
    return jax.grad(total)(params, *constants)

  def forward(*arguments):
    return gradient(*arguments), arguments

  def backward(arguments, cotangent):
    params, *constants = arguments
    both = jax.grad(total, range(len(arguments)))
    along = lambda params: both(params, *constants)
    return jax.jvp(along, (params,), (cotangent,))[1]

  gradient.defvjp(forward, backward)
  return lambda params: gradient(params, *constants)


def descend(
  loss: Callable[[Any], jax.Array],
  params: Any,
  optimizer: optax.GradientTransformation,
  steps: int,
  *,
  mode: str = 'auto',
  project: Callable[[Any], Any] = lambda params: params,
) -> Any:
  """Runs `steps` steps of an optimizer on a loss; differentiable.

  All exact modes give the same derivative, to rounding.

  Args:
    loss: params -> scalar; may close over anything, learned rates included.
    params: where to start, a pytree of float arrays.
    optimizer: any optax transformation; a fresh state is made for each call.
    steps: number of steps, static.
    mode: 'reverse' (reverse-over-reverse), 'remat' (the same, every step
      recomputed in the backward pass, twice where there are many), 'mixed'
      (forward-over-reverse within recomputed steps: arXiv 2505.00793),
      'first_order' (the gradients count as constants: first-order MAML), or
      'auto': 'reverse' where what the steps compute is small enough to be
      kept, else 'mixed'. ValueError for any other.
    project: onto what the parameters are constrained to, after every step.

  Returns:
    The adapted parameters.
  """
  if mode not in MODES:
    raise ValueError(f'unknown mode {mode!r}: choose one of {MODES}')
  gradient: Callable[[Any], Any] = jax.jit(jax.grad(loss), inline=True)
  unroll = False
  if mode in ('auto', 'reverse', 'first_order'):
    size, tuning = steps * memory.footprint(gradient, params), devices.tuning()
    if mode == 'auto':
      kept = steps * memory.footprint(gradient, params, loops=True)
      mode = 'reverse' if kept <= tuning.keep_bytes else 'mixed'
    unroll = steps <= tuning.unroll_steps or size <= tuning.unroll_bytes
  gradient = _mixed_gradient(loss, params) if mode == 'mixed' else gradient

  def step(carry, _):
    params, state = carry
    grads = gradient(params)
    if mode == 'first_order':
      grads = jax.lax.stop_gradient(grads)
    updates, state = optimizer.update(grads, state, params)
    return (project(optax.apply_updates(params, updates)), state), None

  carry = (params, jax.tree.map(jnp.asarray, optimizer.init(params)))
  if mode in ('remat', 'mixed'):
    step, unroll = jax.checkpoint(step, prevent_cse=False), False
    if steps >= _MANY:
      length = math.isqrt(steps)
      leap = lambda carry, _: jax.lax.scan(step, carry, length=length)
      leap = jax.checkpoint(leap, prevent_cse=False)
      carry, _ = jax.lax.scan(leap, carry, length=steps // length)
      steps %= length
  (params, _), _ = jax.lax.scan(step, carry, length=steps, unroll=unroll)
  return params
