"""Coroutines are waited for from plain functions, where a loop runs already too."""

import asyncio
import threading

import pytest

from safesail.waiting import wait_for


async def answer(value: str) -> str:
    await asyncio.sleep(0)
    return f"{value} on {threading.current_thread() is threading.main_thread()}"


async def fault() -> None:
    await asyncio.sleep(0)
    raise ValueError("what went wrong")


def test_without_a_loop_it_runs_here() -> None:
    assert wait_for(answer("it")) == "it on True"


def test_inside_a_loop_as_in_a_notebook_it_runs_elsewhere() -> None:
    async def cell() -> str:
        with pytest.raises(ValueError, match="what went wrong"):
            wait_for(fault())
        return wait_for(answer("it"))

    assert asyncio.run(cell()) == "it on False"
