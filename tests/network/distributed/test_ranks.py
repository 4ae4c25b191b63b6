"""The fixed tree of sums, and ranks that exchange messages: the sums, the gathers, and the reports of failures."""

import threading
import time

import numpy as np
import pytest
from thread_ranks import ThreadRanks, World, in_threads, run_ranks

from deepnotes.network.distributed import ConnectedRanks, Ranks, SingleRank, shard_bounds, single, sum_in_tree
from deepnotes.network.distributed.shared_memory import ranks_per_machine, sum_in_shared_memory
from deepnotes.utils.errors import ArgumentError, RankError


def shard(number: int, size: int = 5) -> np.ndarray:
    """Return the gradient of a shard: numbers of many magnitudes, whose sum depends on the order."""
    rng = np.random.default_rng(number)
    return (rng.normal(size=size) * 10.0 ** rng.integers(-6, 7, size)).astype(np.float32)


def tree(first: int, count: int, size: int = 5) -> np.ndarray:
    """Return the sum of some shards, as the definition of the tree reads."""
    if count == 1:
        return shard(first, size)
    half = count // 2
    return tree(first, half, size) + tree(first + half, half, size)


@pytest.mark.parametrize("samples", [0, 1, 7, 8, 9, 512, 1000])
@pytest.mark.parametrize("shards", [1, 2, 8])
def test_shards_cover_a_batch_in_order_and_differ_by_at_most_one_sample(samples: int, shards: int) -> None:
    bounds = [shard_bounds(samples, shards, i) for i in range(shards)]
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(samples))
    sizes = {stop - start for start, stop in bounds}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_a_sum_in_the_tree_has_the_bits_of_the_definition(count: int) -> None:
    buffers = [np.full(5, np.nan, np.float32) for _ in range(max(1, count.bit_length() - 1))]
    total = sum_in_tree(shard, count, count, buffers)
    assert total is buffers[0]
    assert total.tobytes() == tree(count, count).tobytes()


def test_the_order_of_a_sum_matters_for_the_shards_of_these_tests() -> None:
    in_order = sum((shard(i) for i in range(1, 8)), start=shard(0))
    assert in_order.tobytes() != tree(0, 8).tobytes()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_sum_over_ranks_has_the_same_bits_for_any_number_of_ranks(size: int) -> None:
    def work(ranks: ThreadRanks) -> bytes:
        count = ranks.shards // ranks.size
        buffers = [np.empty(5, np.float32) for _ in range(max(1, count.bit_length() - 1))]
        with ranks.guard():
            total = sum_in_tree(shard, ranks.rank * count, count, buffers)
            ranks.sum(total)
        return total.tobytes()

    assert run_ranks(size, work) == [tree(0, 8).tobytes()] * size


@pytest.mark.parametrize("size", [2, 4])
def test_each_rank_sends_its_sum_once_for_each_level_of_the_tree(size: int) -> None:
    world = World(size)

    def work(ranks: ThreadRanks) -> None:
        ranks.world = world
        ranks.sum(np.ones(100, np.float32))

    assert run_ranks(size, work) == [None] * size
    assert world.bytes_sent == 400 * size * {2: 1, 4: 2}[size]


@pytest.mark.parametrize(("machines", "count"), [(1, 2), (1, 8), (2, 1), (2, 2), (2, 4), (4, 2)])
@pytest.mark.parametrize("size", [3, 1000])
def test_a_sum_in_shared_memory_has_the_bits_of_the_tree(machines: int, count: int, size: int) -> None:
    barriers = [threading.Barrier(count, timeout=60) for _ in range(machines)]
    memory = np.full((2, machines, count, size), np.nan, np.float32)
    world = World(machines * count)

    def work(rank: int) -> list[bytes]:
        machine, own = divmod(rank, count)
        ranks, sums = ThreadRanks(world, rank), []
        for turn in range(3):
            chunk, copies = shard(world.size * turn + rank, size), list(memory[turn % 2, machine])
            over_machines = (lambda piece: ranks.sum_by_doubling(piece, count)) if machines > 1 else None
            sum_in_shared_memory(chunk, copies, own, barriers[machine].wait, over_machines)
            sums.append(chunk.tobytes())
        return sums

    expected = [tree(world.size * turn, world.size, size).tobytes() for turn in range(3)]
    assert in_threads(world.size, work) == [expected] * world.size


@pytest.mark.parametrize(
    ("machines", "count"),
    [
        ([[0]], 1),
        ([[0, 1]] * 2, 2),
        ([[0, 1]] * 2 + [[2, 3]] * 2, 2),
        ([[0, 2], [1, 3]] * 2, 1),
        ([[0, 1, 2]] * 3 + [[3]], 1),
        ([[0], [1, 2], [1, 2], [3]], 1),
        ([[0, 1], [0, 1], [2], [3]], 1),
    ],
)
def test_ranks_share_memory_if_they_are_consecutive_on_equal_machines(machines: list[list[int]], count: int) -> None:
    assert ranks_per_machine(machines) == count


def test_a_gather_and_a_broadcast_give_all_ranks_the_same_objects() -> None:
    def work(ranks: ThreadRanks) -> object:
        with ranks.guard():
            ranks.barrier()
            return ranks.gather({"rank": ranks.rank, "text": "x" * ranks.rank}), ranks.broadcast(f"of {ranks.rank}")

    values = [{"rank": rank, "text": "x" * rank} for rank in range(4)]
    assert run_ranks(4, work) == [(values, "of 0")] * 4


def test_a_single_rank_is_the_form_for_one_process() -> None:
    ranks, x = single(), np.arange(3.0)
    with ranks.guard():
        ranks.sum(x)
        ranks.barrier()
        assert (ranks.rank, ranks.size, ranks.shards) == (0, 1, 8)
        assert (x.tolist(), ranks.broadcast("a"), ranks.gather("b")) == ([0.0, 1.0, 2.0], "a", ["b"])
    assert isinstance(ranks, Ranks)
    assert isinstance(ThreadRanks(World(2), 1), Ranks)


@pytest.mark.parametrize("shards", [0, 3, 6, -8, 2.5, "8"])
def test_a_number_of_shards_that_is_not_a_power_of_two_is_refused(shards: object) -> None:
    with pytest.raises(ArgumentError, match=r"shards="):
        SingleRank(shards)


@pytest.mark.parametrize(("size", "shards"), [(3, 8), (5, 8), (6, 8), (16, 8), (2, 1)])
def test_a_number_of_ranks_that_cannot_share_the_shards_is_refused(size: int, shards: int) -> None:
    with pytest.raises(ArgumentError, match=f"{size} ranks cannot share {shards} shards equally"):
        ConnectedRanks(0, size, shards)


def test_more_ranks_than_8_need_more_shards() -> None:
    assert ConnectedRanks(15, 16, shards=16).shards == 16


@pytest.mark.parametrize("time_limit", [0, -1, float("nan"), "1"])
def test_a_time_limit_that_is_not_positive_is_refused(time_limit: object) -> None:
    with pytest.raises(ArgumentError, match="time_limit="):
        ConnectedRanks(0, 2, time_limit=time_limit)


@pytest.mark.parametrize("failing", [0, 2])
def test_an_error_on_one_rank_ends_the_others_with_its_message(failing: int) -> None:
    def work(ranks: ThreadRanks) -> None:
        with ranks.guard():
            ranks.barrier()
            if ranks.rank == failing:
                raise ValueError("the disk is full")
            ranks.sum(np.ones(3))
            raise AssertionError("the sum cannot have come to an end")

    results = run_ranks(4, work)
    assert isinstance(results[failing], ValueError)
    for rank in {0, 1, 2, 3} - {failing}:
        assert isinstance(results[rank], RankError)
        assert str(results[rank]) == f"rank {failing}: ValueError: the disk is full"
        assert results[rank].rank == failing


def test_ranks_can_be_used_again_after_an_error() -> None:
    def work(ranks: ThreadRanks) -> list[int]:
        def fail_once() -> None:
            with ranks.guard():
                if ranks.rank == 1:
                    raise ValueError("once")
                ranks.sum(np.ones(3))

        with pytest.raises(ValueError if ranks.rank == 1 else RankError, match="once"):
            fail_once()
        with ranks.guard():
            return ranks.gather(ranks.rank)

    assert run_ranks(2, work) == [[0, 1]] * 2


def test_an_error_that_all_ranks_raise_stays_what_it_is() -> None:
    def work(ranks: ThreadRanks) -> None:
        with ranks.guard():
            ranks.barrier()
            raise ArithmeticError("on all ranks")

    assert [type(error) for error in run_ranks(4, work)] == [ArithmeticError] * 4


def test_a_rank_that_does_not_answer_is_an_error_after_the_time_limit() -> None:
    def work(ranks: ThreadRanks) -> None:
        with ranks.guard():
            if ranks.rank == 3:
                time.sleep(1.5)
                return
            ranks.sum(np.ones(3))

    errors = run_ranks(4, work, time_limit=0.3)[:3]
    assert all(isinstance(error, RankError) for error in errors)
    assert any(str(error).startswith("rank 3 did not answer rank") for error in errors)


def test_an_inner_guard_leaves_the_report_to_the_outer_one() -> None:
    def work(ranks: ThreadRanks) -> None:
        with ranks.guard(), ranks.guard():
            assert ranks.call == 1
            if ranks.rank == 0:
                raise KeyError("inner")
            ranks.barrier()

    first, second = run_ranks(2, work)
    assert isinstance(first, KeyError)
    assert str(second) == "rank 0: KeyError: 'inner'"
