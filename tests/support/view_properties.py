"""What holds for the views of any rows under any policy, as checks of one case; each says what differs by assert."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from kd_ray.views import params_from_json, params_to_json
from tests.support.view_cases import ViewCase


def check_replayed_again(case: ViewCase) -> None:
    """The same in the other order, between other views, and by threads at the same time."""
    expected = case.all_seen()
    backwards = [(row, index) for row, index in reversed(case.turns())]
    assert case.all_seen(backwards) == expected
    for num_threads in (1, 2, 8):
        replay = case.replay()
        with ThreadPoolExecutor(num_threads) as pool:
            found = list(pool.map(lambda key, views=replay: case.seen(views.view(*key)), case.turns() * 2))
        assert found == list(expected.values()) * 2, num_threads


def check_stored_params(case: ViewCase) -> None:
    """Params that were written as JSON and read again are the same, and so are the pixels that they give."""
    for row, index in case.turns():
        view = case.replay().view(row, index)
        stored = params_from_json(params_to_json(view.params))
        assert stored == view.params
        assert case.seen(replace(view, params=stored)) == case.seen(view)


def check_nothing_else_decides(case: ViewCase) -> None:
    """A view is what its own key says: not how many there are, nor which others are asked for, nor which rows are read.

    Of a mixed view the key has the ordered members of the row group; other row groups beside it change nothing.
    """
    expected = case.all_seen()
    for index in range(2):
        few = [(row, index) for row, _ in case.turns()]
        assert case.all_seen(few) == {key: expected[key] for key in few}
    before = 0
    for group in case.groups:
        alone = replace(case, groups=(group,))
        assert alone.all_seen() == {
            (row - before, index): seen
            for (row, index), seen in expected.items()
            if before <= row < before + len(group)
        }
        before += len(group)
    if case.policy.mix is None:
        regrouped = replace(case, groups=tuple((sample,) for group in case.groups for sample in group))
        assert regrouped.all_seen() == expected
        moved = replace(case, groups=(tuple(sample for group in reversed(case.groups) for sample in group),))
        assert sorted(moved.all_seen().values()) == sorted(expected.values())
