"""Marks of the tests."""

import pytest

asked = True  # whether thorough tests are asked for, by -m; tests/conftest.py says


def thorough(*values: object) -> list:
    """Values of a parameter that take the same way as the others: their tests are thorough ones.

    There are thousands: where they are not asked for, they are not even collected.
    """
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values] if asked else []
