"""A small encoder for the tests of training, so that a step takes milliseconds."""

from collections.abc import Iterator

import pytest
from helpers.networks import register_tiny_encoders, unregister_tiny_encoders


@pytest.fixture(scope="package", autouse=True)
def _tiny_encoders() -> Iterator[None]:
    register_tiny_encoders()
    yield
    unregister_tiny_encoders()
