"""Nodes that draw random numbers: what they give differs from run to run."""

from __future__ import annotations

RANDOM_OPS = frozenset(
    {
        *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"),
        *("RandomUniform", "RandomUniformLike"),
    }
)
