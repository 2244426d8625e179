"""Body only update in inner loop: the head is meta-learned and stays.

Oh, Yoo, Kim & Yun, "BOIL: Towards Representation Change for Few-shot Learning",
ICLR 2021, arXiv 2008.08882. A head that cannot move forces the body to, and
what is reused in ANIL has to be learnt anew for each task. The opposite of
ANIL in every parameter: the two share one file.
"""

import functools

from metaad_jax.learners import anil

boil = functools.partial(anil.anil, part='body')
