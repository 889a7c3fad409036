"""People whose rows of the training table are the test table; a keyed hash says who, in every generation alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hybridmu.core.kernel.partition import Digests, held_out

# `held_out` mixes "vali" into the hash; this makes "test" of it, so that neither split says anything of the other.
_TAG = np.uint64(0x76616C69 ^ 0x74657374)


def held_out_for_test(places: Digests, fraction: float) -> npt.NDArray[np.bool_]:
    """Return which placement digests belong to the test table, bool [n].

    Args:
        places: uint8 [n, 16], of the group or, where there is none, of the id.
        fraction: Share of the people.
    """
    words = np.array(places).view("<u8").reshape(-1, 2)
    words[:, 0] ^= _TAG
    return held_out(words.view(np.uint8).reshape(-1, 16), fraction)
