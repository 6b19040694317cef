"""What is said while a student is trained: a line an interval, and once what to change."""

from kd_ray.telemetry.training_lines import EVERY_S, TrainingLines


class Clock:
    """The time that the lines read."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def lines(clock: Clock) -> TrainingLines:
    return TrainingLines(name="student", num_steps=1_000, num_workers=2, global_batch_size=64, num_cpus=1, clock=clock)


def metrics(*, data_wait: float = 0.0) -> dict[str, float]:
    return {
        "loss": 1.25,
        "0_kd": 1.0,
        "1_feature_summary": 0.25,
        "images_per_s_per_worker": 320.0,
        "data_wait": data_wait,
        "learning_rate": 0.002,
    }


def test_an_interval_has_every_term_speed_waiting_rate_and_the_time_left() -> None:
    assert lines(Clock()).after(100, metrics(data_wait=0.031)) == [
        "student: step 100/1,000, loss 1.25 (0_kd 1, 1_feature_summary 0.25), 640 images/s, data wait 3 %, "
        "learning rate 0.002, 1 min 30 s left"
    ]


def test_lines_are_some_time_apart_but_the_last_step_has_one() -> None:
    clock = Clock()
    told = lines(clock)
    assert len(told.after(20, metrics())) == 1
    clock.now_s += EVERY_S - 1
    assert told.after(40, metrics()) == []
    clock.now_s += 2
    assert len(told.after(60, metrics())) == 1
    assert len(told.after(1_000, metrics())) == 1


def test_waiting_for_data_is_explained_once_and_not_of_the_first_interval() -> None:
    clock = Clock()
    told = lines(clock)
    found = []
    for step in (20, 40, 60):
        found.append(told.after(step, metrics(data_wait=0.4)))
        clock.now_s += EVERY_S
    assert [len(each) for each in found] == [1, 2, 1]
    advice = found[1][1]
    assert advice.startswith("student: train/data_wait is 40 %")
    for name in ("train.resources_per_worker.num_cpus, now 1", "views.keep: pixels", "train.lanes", "shuffle_window"):
        assert name in advice


def test_a_little_waiting_is_no_matter() -> None:
    clock = Clock()
    told = lines(clock)
    told.after(20, metrics())
    clock.now_s += EVERY_S
    assert len(told.after(40, metrics(data_wait=0.05))) == 1
