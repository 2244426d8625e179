"""Programs: flags in, a call of the library out."""

import gc

# Imports and traces keep nearly all that they make: looked through less often.
gc.set_threshold(50_000, 20, 20)
