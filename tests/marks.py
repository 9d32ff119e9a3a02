"""Marks of the tests."""

import pytest


def thorough(*values: object) -> list:
    """Values of a parameter that take the same way as the others: their tests are thorough ones."""
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]
