"""Codes of tokens: they come back as they were, and no feature is beyond its range."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridmu.core.adapters.token_codes import NONE, digits_of, to_features, to_numbers


@pytest.mark.parametrize("vocabulary", [10, 255, 30_522, 65_024, 65_025, 250_002, 255**3 - 1])
@given(data=st.data())
def test_tokens_come_back(vocabulary, data):
    digits = digits_of(vocabulary)
    number = st.integers(NONE, vocabulary - 1)
    rows = data.draw(st.lists(st.lists(number, min_size=3, max_size=3), min_size=1, max_size=4))
    made = to_features(np.array(rows, np.int64), digits)
    assert made.shape == (len(rows), 3 * digits)
    assert made.min() >= -127
    seen = torch.from_numpy(made.astype(np.float32) * np.float32(1 / 127))  # as columns of lists are encoded
    assert to_numbers(seen, digits).tolist() == rows


def test_the_largest_number_and_zeros():
    largest = np.array([[255**2 - 2, 0, NONE]])
    assert to_numbers(torch.from_numpy(to_features(largest, 2)) / 127, 2).tolist() == largest.tolist()
    assert to_numbers(torch.zeros(2, 6), 2).tolist() == [[NONE] * 3] * 2
