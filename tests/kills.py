"""Trainings that are killed."""

from metaad_jax.training.checkpoints import Checkpoints


class Killed(BaseException):
  """As SIGKILL, it is caught by nobody."""


def kill_at(monkeypatch, count):
  """Ends training before checkpoint number `count` of all is saved."""
  saved = []

  def save(self, step, state, original=Checkpoints.save):
    if len(saved) == count:
      raise Killed
    saved.append(step)
    original(self, step, state)

  monkeypatch.setattr(Checkpoints, 'save', save)
