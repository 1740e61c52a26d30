"""Samples in memory and in a file are the same samples."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

import numpy as np
import pytest

from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.run.spool import SpooledFeeds
from qgraph._graph.tensors import Feed


def feeds(count: int = 5) -> Iterator[Feed]:
    rng = np.random.default_rng(0)
    for index in range(count):
        yield {
            "x": rng.standard_normal((1, index, 3)).astype(np.float16),
            "ids": np.arange(index + 1),
            "flag": np.array(index % 2 == 0),
        }


@pytest.mark.parametrize("in_memory", [0, 60, 1 << 20])
def test_samples_come_back_as_they_were_in_any_order(in_memory: int) -> None:
    spooled = SpooledFeeds(feeds(), in_memory)
    wanted = list(feeds())
    assert len(spooled) == len(wanted)
    for index in (3, 0, 4, -1, 2, 1, 3):
        for name, array in wanted[index].items():
            found = spooled[index][name]
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


def test_a_part_of_them_is_read_when_it_is_asked_for() -> None:
    part = SpooledFeeds(feeds(), 0)[1:5][1:]
    assert [int(feed["ids"][-1]) for feed in part] == [2, 3, 4]
    with pytest.raises(IndexError):
        part[3]


def test_what_was_handed_out_is_the_callers() -> None:
    spooled = SpooledFeeds(feeds(), 0)
    spooled[2]["ids"][:] = 7
    assert spooled[2]["ids"].tolist() == [0, 1, 2]


def test_a_disk_that_takes_no_more_is_named() -> None:
    """A limit for files stands for it: the system says which."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(EnvironmentFault, match=os.strerror(errno.EFBIG)):
            SpooledFeeds(({"x": np.zeros(1 << 15)} for _ in range(2)), in_memory=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
